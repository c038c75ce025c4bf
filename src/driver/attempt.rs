//! One attempt: from a new session to the end of the last dataset, or to what stops everything.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::Instrument;

use super::{
    DatasetReport, DatasetResult, Direction, Report, RunContext, RunOptions,
    limit::keep_to,
    side::{Side, unexpected},
    step::Work,
    stopped,
};
use crate::{
    limits::MAX_SIZES,
    plan::{Decision, Plan, PlanInput, PlanOptions, Step, plan},
    session::{
        client::{Client, ClientOptions},
        engine::EngineSession,
        told::told,
    },
    types::{
        DatasetName, Failure, FailureClass, Guid, JobId, PeerName, SnapshotName,
        listing::{DatasetInfo, JOB, Listing},
        transfer::{Depth, SnapshotRequest},
    },
    wire::message::{Listed, Reply, Request, RoleOfDataset},
};

/// How long a lock is asked for again that an earlier run of ours holds, which the peer knows to be without connection.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How long a lock of a run that seems to live is asked for again: until the peer has noticed that it was just killed.
const LOCK_GRACE: Duration = Duration::from_millis(750);

/// What is ready for a run in a session that stays open, so that it costs few round trips.
#[derive(Default)]
pub(super) struct Ready {
    /// The session holds the target.
    pub locked: bool,
    /// The target, as the last run in this session left it.
    pub target: Option<Listed>,
    /// Channels that are connected, and have no transfer yet.
    pub channels: Arc<Mutex<Vec<u32>>>,
    /// What the source is told later, when there is time for it; `None`: at once.
    pub owed: Option<Mutex<Vec<Request>>>,
}

/// # Errors
/// What concerns the run as a whole. Failures of single datasets go into the report.
pub(super) async fn attempt(
    context: &RunContext,
    client: &ClientOptions,
    options: &RunOptions,
    report: &mut Report,
) -> Result<(), Failure> {
    let client = tokio::select! {
        biased;
        client = Client::connect(Arc::clone(&context.link), client) => client?,
        () = context.stop.cancelled() => return Err(stopped()),
    };
    let skew_s = client.clock_skew_ms() / 1000;
    if skew_s.abs() > 300 {
        report.notes.push(format!("the clocks of the two hosts are {} s apart", skew_s.abs()));
    }
    let holder = format!("a run on this host (pid {})", std::process::id());
    let local = Arc::new(EngineSession::new(Arc::clone(&context.engine), holder, Arc::clone(&client) as _));
    let nothing = Arc::default();
    let result = tokio::select! {
        biased;
        result = with_session(context, options, report, (&client, &local), &nothing) => result,
        () = context.stop.cancelled() => Err(stopped()),
    };
    local.shut_down().await;
    client.bye().await;
    result
}

pub(super) async fn with_session(
    context: &RunContext,
    options: &RunOptions,
    report: &mut Report,
    (client, local): (&Arc<Client>, &Arc<EngineSession>),
    ready: &Arc<Ready>,
) -> Result<(), Failure> {
    let (here, there) = (Side::Local(Arc::clone(local)), Side::Remote(Arc::clone(client)));
    let (source, target, target_identity) = match options.direction {
        Direction::Push => (here, there, client.identity().clone()),
        Direction::Pull => (there, here, context.identity.clone()),
    };
    let _limited = match &context.limit {
        Some(limit) => keep_to(limit, &source, client).await?,
        None => None,
    };
    if options.dry_run && options.snapshot.is_some() {
        report.notes.push("a run would take a snapshot first, and send it as well; this plan is without it".to_owned());
    }
    if !options.dry_run {
        if !ready.locked {
            let began = Instant::now();
            lock(&target, &options.target).await?;
            report.preparing += began.elapsed();
        }
        if let Some(tag) = options.snapshot.as_ref().filter(|_| report.snapshot.is_none()) {
            let asked_before = std::mem::replace(&mut report.snapshot_asked, true);
            match take_snapshot(&source, options, tag).await {
                Ok(notes) => report.notes.extend(notes),
                // The answer to an earlier attempt was lost; the snapshot is atomic, so it is ours and whole.
                Err(failure) if asked_before && failure.exists => {}
                Err(failure) => return Err(failure),
            }
            report.snapshot = Some(tag.clone());
        }
    }
    let depth = if options.recursive { Depth::Tree } else { Depth::Root };
    let (root, role) = (options.source.clone(), RoleOfDataset::Source);
    // What is below the target must be known even if only its root is written: it may be a placeholder.
    let target_request =
        Request::List { root: options.target.clone(), depth: Depth::Tree, role: RoleOfDataset::Target };
    let target_has = async {
        match &ready.target {
            Some(known) => Ok(known.clone()),
            None => target.list(target_request).await,
        }
    };
    let began = Instant::now();
    let source_has = async {
        let listed = source.list(Request::List { root, depth, role }).await?;
        Ok((listed, began.elapsed()))
    };
    let ((source_has, source_took), target_has) = tokio::try_join!(source_has, target_has)?;
    report.preparing += began.elapsed().saturating_sub(source_took);
    let job = job_id(options, &source_has.listing, &target_has.listing, &target_identity)?;
    let plan = plan(&PlanInput {
        source: &source_has.listing,
        source_root: &options.source,
        source_caps: &source_has.capabilities,
        target: &target_has.listing,
        target_root: &options.target,
        target_ancestors: &target_has.ancestors,
        target_caps: &target_has.capabilities,
        options: &PlanOptions {
            recursive: options.recursive,
            exclude: options.exclude.clone(),
            history: options.history,
            upto: options.upto.clone(),
            encryption: options.encryption,
            rollback: options.rollback,
            job: job.clone(),
            enters: options.enters.clone(),
        },
    })
    .map_err(|refusal| Failure::new(FailureClass::Refused, &refusal).hint(refusal.hint()))?;
    report.notes.extend(plan.notes.iter().filter(|note| !report.notes.contains(note)).cloned().collect::<Vec<_>>());
    let sizes = sizes(&source, &plan, &source_has, options.estimates).await?;
    if options.dry_run {
        for dataset in &plan.datasets {
            report.merge(dry(dataset));
        }
        report.plan = Some(plan);
        report.plan_sizes = sizes;
        return Ok(());
    }
    let known: Option<u64> = sizes.iter().copied().sum();
    context.board.planned(sizes.len(), known);
    let work = Arc::new(Work {
        client: Arc::clone(client),
        local: Arc::clone(local),
        ready: Arc::clone(ready),
        source,
        target,
        job,
        options: options.clone(),
        board: Arc::clone(&context.board),
        bookmarks: source_has.capabilities.bookmarks,
        bases: bases(&plan, &source_has.listing),
    });
    let began = Instant::now();
    let result = carry_out(work, plan, source_has, target_has, sizes, report).await;
    report.carrying += began.elapsed();
    result
}

pub(super) async fn lock(target: &Side, dataset: &DatasetName) -> Result<(), Failure> {
    let since = Instant::now();
    loop {
        match target.tell(Request::Lock { target: dataset.clone() }).await {
            Ok(_) => return Ok(()),
            Err(failure) => {
                let patience = if failure.transient { LOCK_PATIENCE } else { LOCK_GRACE };
                if failure.class != FailureClass::Locked || since.elapsed() >= patience {
                    return Err(failure);
                }
                sleep(Duration::from_millis(250)).await;
            }
        }
    }
}

/// One atomic snapshot of what takes part.
async fn take_snapshot(
    source: &Side,
    options: &RunOptions,
    tag: &crate::types::SnapshotTag,
) -> Result<Vec<String>, Failure> {
    let mut except = Vec::new();
    if options.recursive && !options.exclude.is_empty() {
        let (root, role) = (options.source.clone(), RoleOfDataset::Source);
        let listed = source.list(Request::List { root, depth: Depth::Tree, role }).await?;
        let is_excluded = |info: &DatasetInfo| {
            let relative = info.name.relative_to(&options.source).unwrap_or_default();
            !relative.is_empty() && options.exclude.iter().any(|pattern| pattern.excludes(relative))
        };
        except.extend(listed.listing.datasets.iter().filter(|d| is_excluded(d)).map(|d| d.name.clone()));
    }
    let request =
        SnapshotRequest { root: options.source.clone(), tag: tag.clone(), recursive: options.recursive, except };
    source.tell(Request::Snapshot(request)).await
}

/// The id under which state is left: the one that the target bears, so that renaming either side strands nothing; for
/// a new target, one made of the source's GUID and the target's place.
fn job_id(options: &RunOptions, source: &Listing, target: &Listing, identity: &PeerName) -> Result<JobId, Failure> {
    let borne = target.get(&options.target).and_then(|info| info.local(JOB)).and_then(|job| job.parse::<JobId>().ok());
    // A target that was moved to another node begins a new job: the old one's state is another identity's.
    if let Some(job) = borne.filter(|job| job.belongs_to(identity)) {
        return Ok(job);
    }
    let guid = source.get(&options.source).map_or(Guid(0), |info| info.guid);
    JobId::for_target(identity, guid, &options.target).map_err(|e| Failure::new(FailureClass::Internal, e))
}

/// The estimates of all steps, in the order of the plan.
async fn sizes(source: &Side, plan: &Plan, source_has: &Listed, wanted: bool) -> Result<Vec<Option<u64>>, Failure> {
    let steps: Vec<_> = plan.datasets.iter().flat_map(|d| d.steps()).collect();
    // One command each: for a plan of hundreds of steps the estimate is not worth the wait.
    if !wanted || !source_has.capabilities.send_estimate || steps.len() > MAX_SIZES || steps.is_empty() {
        return Ok(vec![None; steps.len()]);
    }
    // Of a step that is resumed, the whole is asked for, less what the token says is there.
    let whole = |step: &&Step| Step { resume: None, ..(*step).clone() }.send_spec();
    let there = |step: &Step| step.resume.as_ref().map_or(0, |(_, token)| token.bytes);
    match source.ask(Request::Sizes(steps.iter().map(whole).collect())).await? {
        Reply::Sizes(sizes) if sizes.len() == steps.len() => {
            Ok(sizes.iter().zip(&steps).map(|(size, step)| Some(size.as_ref()?.saturating_sub(there(step)))).collect())
        }
        _ => Err(unexpected()),
    }
}

/// What each dataset of the source is kept at once the plan is carried out; of those that are refused, any snapshot may be it.
fn bases(plan: &Plan, source: &Listing) -> HashSet<SnapshotName> {
    let mut bases = HashSet::new();
    for dataset in &plan.datasets {
        match &dataset.decision {
            Decision::UpToDate { newest, common, .. } => {
                bases.insert(common.as_ref().map_or(newest, |common| &common.name).clone());
            }
            Decision::Work(_) => bases.extend(dataset.steps().last().map(|step| step.snapshot.clone())),
            Decision::Refused(_) => {
                let info = source.get(&dataset.source).into_iter();
                bases.extend(info.flat_map(|i| i.snapshots.iter().filter_map(|s| i.snapshot_name(s).ok())));
            }
        }
    }
    bases
}

fn dry(plan: &crate::plan::DatasetPlan) -> DatasetReport {
    DatasetReport {
        source: plan.source.clone(),
        target: plan.target.clone(),
        result: match &plan.decision {
            Decision::UpToDate { .. } => DatasetResult::UpToDate,
            Decision::Work(_) => DatasetResult::Done,
            Decision::Refused(_) => DatasetResult::Refused,
        },
        steps: Vec::new(),
        unsure: None,
        notes: plan.notes.clone(),
        error: plan.refusal().map(|r| Failure::new(FailureClass::Refused, r).hint(r.hint())),
    }
}

/// Works the datasets off, `jobs` at a time, each after those that it needs.
async fn carry_out(
    work: Arc<Work>,
    plan: Plan,
    source_has: Listed,
    target_has: Listed,
    sizes: Vec<Option<u64>>,
    report: &mut Report,
) -> Result<(), Failure> {
    let slots = Arc::new(Semaphore::new(work.options.jobs.max(1)));
    let find = |listing: &Listing| -> std::collections::HashMap<_, DatasetInfo> {
        listing.datasets.iter().map(|d| (d.name.clone(), d.clone())).collect()
    };
    let (mut sources, mut targets) = (find(&source_has.listing), find(&target_has.listing));
    drop((source_has, target_has));
    let mut sizes = sizes.into_iter();
    // A placeholder may stand below a dataset that is received first, so each is made when it is needed.
    let placeholders: Vec<Vec<_>> = plan.datasets.iter().map(|d| plan.placeholders_of(d).cloned().collect()).collect();
    // What each dataset tells those that wait for it: true when it went well.
    let (tells, hears): (Vec<_>, Vec<_>) = plan.datasets.iter().map(|_| told::<bool>()).unzip();
    let order: Vec<_> = plan.datasets.iter().map(|d| d.source.clone()).collect();
    let mut running = JoinSet::new();
    for ((dataset, tell), parents) in plan.datasets.into_iter().zip(tells).zip(placeholders) {
        let needs: Vec<_> = dataset.after.iter().filter_map(|at| hears.get(*at).cloned()).collect();
        let own_sizes: Vec<_> = sizes.by_ref().take(dataset.steps().count()).collect();
        let (source, target) = (sources.remove(&dataset.source), targets.remove(&dataset.target));
        let (work, slots) = (Arc::clone(&work), Arc::clone(&slots));
        let span = tracing::info_span!("transfer", dataset = %dataset.source);
        let transfer = async move {
            let mut needs_met = true;
            for need in needs {
                needs_met &= need.wait().await == Some(true);
            }
            let outcome = if needs_met {
                // The semaphore is never closed.
                let _slot = slots.acquire().await;
                work.dataset(&dataset, &parents, (source.as_ref(), target.as_ref()), &own_sizes).await
            } else {
                DatasetReport {
                    result: DatasetResult::Skipped,
                    error: Some(
                        Failure::new(FailureClass::Zfs, "not tried, because a dataset that it needs failed")
                            .consequence(),
                    ),
                    ..dry(&dataset)
                }
            };
            tell.tell(matches!(outcome.result, DatasetResult::Done | DatasetResult::UpToDate));
            outcome
        };
        running.spawn(transfer.instrument(span));
    }
    // As they come, so that a run that is stopped still reports what it has done.
    let mut broken = None;
    while let Some(outcome) = running.join_next().await {
        match outcome {
            Ok(outcome) => report.merge(outcome),
            Err(e) => {
                broken = Some(Failure::new(FailureClass::Internal, format!("a dataset's task ended unexpectedly: {e}")))
            }
        }
    }
    report.sort_by(|dataset| order.iter().position(|name| name == dataset));
    broken.map_or(Ok(()), Err)
}
