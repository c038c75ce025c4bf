//! `zmigrate state`.

use std::time::Duration;

use serde::Serialize;

use super::{
    args::{Global, ReleaseArgs, StateCommand},
    output::{Output, note, print_failure, runtime},
};
use crate::{
    host,
    identity::When,
    inventory::{Choice, Item, Kind, table},
    session::state::{Inventory, Release, preview, release, survey},
    types::{DatasetName, Failure, FailureClass, paragraph},
};

#[derive(Serialize)]
struct ListObject<'a> {
    items: &'a [Item],
    holds_listed: bool,
    notes: &'a [String],
}

#[derive(Serialize)]
struct ReleaseObject {
    result: &'static str,
    exit_code: u8,
    items: Vec<ReleasedObject>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct ReleasedObject {
    #[serde(flatten)]
    item: Item,
    meaning: String,
    released: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

pub fn run(global: &Global, command: StateCommand, output: &Output) -> Result<u8, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let engine = host::engine(&config);
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        match command {
            StateCommand::List { dataset } => {
                let inventory = survey(&engine, dataset.as_ref()).await?;
                list(&inventory, output);
                Ok(0)
            }
            StateCommand::Release(args) => {
                let choice = choice(&args)?;
                if args.yes && !args.dry_run {
                    host::state_is_ours(&config)?;
                    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
                    let by = format!("zmigrate state release on {host} (pid {})", std::process::id());
                    Ok(report(&release(&engine, &by, &choice).await?, true, output))
                } else {
                    let inventory = survey(&engine, choice.root().as_ref()).await?;
                    Ok(report(&preview(&inventory, &choice)?, false, output))
                }
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

fn list(inventory: &Inventory, output: &Output) {
    let mut notes = Vec::new();
    if !inventory.holds_listed {
        notes.push(
            "this ZFS cannot list holds: those that sources keep are not shown. What is marked base * is known by \
             zmigrate:held alone"
                .to_owned(),
        );
    }
    for (pool, health) in &inventory.silent_pools {
        notes.push(format!("pool {pool} is {health} and was not looked at"));
    }
    if !output.is_json() {
        notes.iter().for_each(|text| note(format_args!("note: {text}")));
    }
    let object = ListObject { items: &inventory.items, holds_listed: inventory.holds_listed, notes: &notes };
    let text = match (inventory.items.is_empty(), inventory.holds_listed) {
        (true, true) => "zmigrate left nothing here".to_owned(),
        (true, false) => "nothing of zmigrate can be seen here; holds cannot".to_owned(),
        _ => table(&inventory.items, When::now().unix_s()),
    };
    output.result(&object, text);
}

fn choice(args: &ReleaseArgs) -> Result<Choice, Failure> {
    let usage = |what: String, hint: &str| Failure::new(FailureClass::Usage, what).hint(hint);
    let scope = |name: &String| {
        name.parse::<DatasetName>().map_err(|e| {
            usage(e.to_string(), "with --stale, and with --job alone, give a dataset; leave it out for all pools")
        })
    };
    let job = args.job.clone();
    match (&args.name, job) {
        (name, job) if args.stale => Ok(Choice::Stale { job, scope: name.as_ref().map(scope).transpose()? }),
        (None, Some(job)) => Ok(Choice::Job { job, scope: None }),
        (Some(name), Some(job)) if !name.contains(['@', '#', '%']) => {
            Ok(Choice::Job { job, scope: Some(scope(name)?) })
        }
        (Some(name), job) => {
            let choice = Choice::Named { name: name.clone(), job };
            match choice.root() {
                Some(_) => Ok(choice),
                None => Err(usage(
                    format!("{name:?} is no name of a dataset, snapshot or bookmark"),
                    "see `zmigrate state list`",
                )),
            }
        }
        (None, None) => Err(usage(
            "what is to be let go?".to_owned(),
            "name it (see `zmigrate state list --output json`), or use --job JOB, or --stale",
        )),
    }
}

fn report(done: &Release, acted: bool, output: &Output) -> u8 {
    let errors: Vec<&Failure> =
        done.items.iter().filter_map(|r| r.error.as_ref()).chain(&done.unlisted_error).collect();
    let all = done.items.len() + usize::from(!done.unlisted.is_empty());
    let (result, exit_code) = match errors.as_slice() {
        [] if acted => ("done", 0),
        [] => ("planned", 0),
        [first, ..] if errors.len() == all => ("failed", first.class.exit_code()),
        _ => ("partial", FailureClass::Partial.exit_code()),
    };
    let mut notes = Vec::new();
    if !done.unlisted.is_empty() {
        let went = if acted { "went" } else { "would go" };
        notes.push(format!(
            "this ZFS cannot list holds: any of that job on {} snapshots {went} as well",
            done.unlisted.len()
        ));
    }
    match (all, acted) {
        (0, _) => notes.push("nothing is stale".to_owned()),
        (_, false) => notes.push("nothing was let go; --yes does it".to_owned()),
        _ => {}
    }
    if let (Some(failure), false) = (&done.unlisted_error, output.is_json()) {
        print_failure(failure);
    }
    let items = done.items.iter().map(|released| ReleasedObject {
        meaning: released.item.meaning(),
        released: acted && released.error.is_none(),
        error: released.error.clone(),
        item: released.item.clone(),
    });
    let object = ReleaseObject { result, exit_code, items: items.collect(), notes };
    output.verdict(exit_code, &object, text(&object, acted));
    exit_code
}

/// One paragraph for each item.
fn text(object: &ReleaseObject, acted: bool) -> String {
    let mut text = String::new();
    for released in &object.items {
        let item = &released.item;
        let what = match item.kind {
            Kind::Bookmark => format!("bookmark {}", item.name),
            Kind::Hold => format!("hold zmigrate:{} on {}", item.job.as_ref().map_or("-", |j| j.as_str()), item.name),
            Kind::Job => format!("property zmigrate:job of {}", item.name),
            Kind::Held => format!("property zmigrate:held of {}", item.name),
            Kind::Placeholder => format!("property zmigrate:placeholder of {}", item.name),
            Kind::Fence => format!("property zmigrate:fence of {}", item.name),
            Kind::Serving => format!("property zmigrate:serving of {}", item.name),
            Kind::Partial => format!("interrupted receive of {}", item.dataset),
        };
        match (&released.error, acted) {
            (Some(failure), _) => {
                paragraph(&mut text, "not released: ", 4, &what);
                paragraph(&mut text, "  ", 2, &failure.to_string());
            }
            (None, true) => paragraph(&mut text, "released: ", 4, &what),
            (None, false) => {
                paragraph(&mut text, "would release: ", 4, &what);
                paragraph(&mut text, "  ", 2, &released.meaning);
            }
        }
    }
    for note in &object.notes {
        paragraph(&mut text, "", 0, note);
    }
    text
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(super) fn samples() -> (serde_json::Value, serde_json::Value) {
    use crate::inventory::{Side, Standing};
    let item = Item {
        kind: Kind::Hold,
        dataset: "a".parse().unwrap(),
        name: "a@s".into(),
        job: Some("j".parse().unwrap()),
        side: Side::Source,
        snapshot: Some("s".into()),
        guid: Some(crate::types::Guid(1)),
        created_unix_s: Some(1),
        standing: Standing::Base,
        seen: true,
        bytes: Some(1),
        whole_dataset: false,
        leg: Some("00000001:1".into()),
    };
    let notes = vec!["n".to_owned()];
    let list = ListObject { items: std::slice::from_ref(&item), holds_listed: true, notes: &notes };
    let list = serde_json::to_value(list).unwrap();
    let error = Some(Failure::new(FailureClass::Zfs, "e"));
    let items = vec![ReleasedObject { item, meaning: "m".into(), released: false, error }];
    (list, serde_json::to_value(ReleaseObject { result: "failed", exit_code: 6, items, notes }).unwrap())
}
