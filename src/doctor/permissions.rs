//! Whether the user that runs this may do what grants promise and jobs need. docs/unprivileged.md has the reasons for each.

use std::{collections::BTreeSet, fs};

use super::{Checks, PATIENCE, Patient, places::Place};
use crate::{
    port::zfs::ZfsErrorKind,
    session::patience::in_time,
    types::{Access, Delegate, Delegation, Failure, FailureClass},
};

/// Without these nothing is received.
const TARGET_NEEDS: &[&str] =
    &["create", "mount", "receive", "hold", "release", "userprop", "readonly", "canmount", "setuid", "exec", "devices"];
/// Without these some things do not work.
const TARGET_WANTS: &[&str] = &["volmode", "snapdev", "destroy", "rollback"];
/// Without these nothing is sent, or no base is kept.
const SOURCE_NEEDS: &[&str] = &["send", "hold", "release", "bookmark", "destroy"];

/// Who runs this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The effective user id.
    pub uid: u32,
    /// Its name and number, either of which `zfs allow` may show.
    pub names: Vec<String>,
    /// Its groups' names and numbers.
    pub groups: Vec<String>,
}

/// The name of a user id, or of a group's, as that file knows it.
fn named(file: &str, id: u32) -> Option<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|f| f.get(2) == Some(&id.to_string().as_str()));
    found.and_then(|fields| Some((*fields.first()?).to_owned()))
}

/// What a user is called: by name if `/etc/passwd` knows one, else by number.
pub fn user_name(uid: u32) -> String {
    named("/etc/passwd", uid).unwrap_or_else(|| uid.to_string())
}

impl User {
    /// The user of this process. Names come from `/etc/passwd` and `/etc/group`; numbers count where those know none.
    pub fn current() -> User {
        let uid = rustix::process::geteuid().as_raw();
        let mut gids: Vec<u32> =
            rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()).collect();
        gids.push(rustix::process::getegid().as_raw());
        let both = |file: &str, id: u32| named(file, id).into_iter().chain([id.to_string()]);
        User {
            uid,
            names: both("/etc/passwd", uid).collect(),
            groups: gids.into_iter().flat_map(|gid| both("/etc/group", gid)).collect(),
        }
    }

    fn is(&self, to: &Delegate) -> bool {
        match to {
            Delegate::User(name) => self.names.contains(name),
            Delegate::Group(name) => self.groups.contains(name),
            Delegate::Everyone => true,
        }
    }

    /// Those of `needed` that no delegation gives this user.
    pub fn lacks<'a>(&self, needed: &[&'a str], delegations: &[Delegation]) -> Vec<&'a str> {
        let of_us = delegations.iter().filter(|d| self.is(&d.to));
        let has: BTreeSet<&str> = of_us.flat_map(|d| d.permissions.iter().map(String::as_str)).collect();
        needed.iter().copied().filter(|permission| !has.contains(permission)).collect()
    }

    fn name(&self) -> &str {
        self.names.first().map_or("?", String::as_str)
    }
}

pub(super) async fn all(checks: &mut Checks, patient: &Patient, places: &[Place]) {
    let user = &patient.user;
    if user.uid == 0 {
        let text =
            "root may do all; if zmigrated runs as another user, run this as that one: sudo -u USER zmigrate doctor";
        return checks.ok("allow", text);
    }
    if places.is_empty() {
        return checks.ok("allow", "no permission was checked: no grant and no job names a dataset that is there");
    }
    let mut complete = 0;
    for Place { access, dataset, by, snapshots, alone } in places {
        let answer = in_time("list permissions", PATIENCE, patient.zfs.delegations(dataset)).await;
        let delegations = match answer {
            Ok(delegations) => delegations,
            Err(e) if e.kind == ZfsErrorKind::Unsupported => {
                let hint = "run zmigrate as root on this ZFS";
                return checks.warn("allow", "this ZFS cannot list what was delegated (`zfs allow`)", hint);
            }
            Err(e) => {
                checks.failure("allow", Failure::from(e), "run it as root to see more");
                continue;
            }
        };
        let (mut needs, wants) = match access {
            Access::Push => (TARGET_NEEDS.to_vec(), TARGET_WANTS),
            _ if *alone => (vec!["destroy"], &[][..]),
            _ => (SOURCE_NEEDS.to_vec(), &[][..]),
        };
        if *snapshots {
            needs.push("snapshot");
        }
        let (needs, wants) = (user.lacks(&needs, &delegations), user.lacks(wants, &delegations));
        let lacking = [needs.clone(), wants.clone()].concat().join(",");
        let hint = format!("as root: zfs allow -u {} {lacking} {dataset}", user.name());
        if !needs.is_empty() {
            let text = format!("{} may not do {} on {dataset}, which {by} needs", user.name(), needs.join(", "));
            checks.fail("allow", FailureClass::Zfs, text, hint);
        } else if !wants.is_empty() {
            let text = format!("{} may not do {} on {dataset}; what needs it will fail", user.name(), wants.join(", "));
            checks.warn("allow", text, hint);
        } else {
            complete += 1;
        }
    }
    if complete > 0 {
        checks.ok("allow", format!("{} has all permissions that it needs on {complete} datasets", user.name()));
    }
}
