//! What the machines act upon: the ZFS of two hosts, and an application that writes numbered records.
//!
//! Effects act in small steps, so that a crash can leave them half done.

use std::sync::Arc;

use zmigrate::{
    cutover::{
        effect::{Action, Outcome},
        leg::{Leg, Side},
        record::{Former, Saved},
    },
    types::Guid,
};

/// One host's copy of the dataset, and its application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// Records 1 to this are in it.
    pub data: u8,
    /// Its newest snapshot, and the records in that.
    pub newest: (u64, u8),
    pub mounted: bool,
    pub readonly: bool,
    /// `canmount=on`: mounted at boot.
    pub canmount: bool,
    /// `zmigrate:fence`.
    pub fence: Option<Leg>,
    /// The application runs.
    pub app: bool,
    /// The application is being stopped by what a process that died began.
    pub stopping: bool,
    /// Arming prepared it to be a target.
    pub prepared: bool,
    /// The dataset is there.
    pub exists: bool,
}

impl Site {
    pub fn serving() -> Site {
        Site { mounted: true, canmount: true, app: true, readonly: false, ..Site::standby() }
    }

    pub fn standby() -> Site {
        Site {
            data: 0,
            newest: (0, 0),
            mounted: false,
            readonly: true,
            canmount: false,
            fence: None,
            app: false,
            stopping: false,
            prepared: false,
            exists: true,
        }
    }

    pub fn is_writable(&self) -> bool {
        self.exists && self.mounted && !self.readonly
    }

    /// Serves, with the properties that it was made with.
    pub fn serves(&self) -> bool {
        self.is_writable() && self.app && self.canmount && self.fence.is_none()
    }

    /// Mounts what `canmount` says, and what is fenced, too: `canmount=noauto` has not always been heeded at boot. The application starts with its mount.
    pub fn reboot(&mut self) {
        self.mounted = self.exists && (self.canmount || self.fence.is_some());
        (self.app, self.stopping) = (self.is_writable(), false);
    }

    pub fn forget(&mut self) {
        *self = Site { exists: false, ..Site::standby() };
    }
}

/// How many steps an action has, for crashes between them.
pub fn steps(action: &Action) -> u8 {
    match action {
        Action::Fence(_) => 4,
        Action::Unfence(_) => 3,
        Action::Activate { .. } => 3,
        Action::ReadFormer(_) => 0,
        _ => 1,
    }
}

fn saved(property: &str, local: &str) -> Saved {
    Saved {
        dataset: "p/d".parse().unwrap(),
        property: property.into(),
        local: Some(local.into()),
        value: local.into(),
        received: false,
    }
}

fn on(former: &Former, property: &str, default: bool) -> bool {
    former.iter().find(|s| s.property == property).map_or(default, |s| s.local.as_deref() == Some("on"))
}

/// Does the first `upto` steps of `action`, and shows the site after each to `look`.
pub fn act(site: &mut Site, action: &Action, upto: u8, look: &mut dyn FnMut(&Site, Option<&'static str>)) -> Outcome {
    let text = |yes: bool| if yes { "on" } else { "off" };
    for step in 1..=upto {
        let mut wrong = None;
        match (action, step) {
            (Action::Prepare(Side::Source) | Action::ReadFormer(_), _) => {}
            (Action::Prepare(Side::Target), _) => site.prepared = true,
            (Action::Settle, _) => site.prepared = false,
            (Action::Quiesce, _) => (site.app, site.stopping) = (false, false),
            (Action::Fence(_), 1) => {
                if site.app {
                    wrong = Some("Q: the fence was set under a running application");
                }
                site.mounted = false;
            }
            (Action::Fence(_), 2) => site.readonly = true,
            (Action::Fence(_), 3) => site.canmount = false,
            (Action::Fence(leg), _) => site.fence = Some(*leg),
            (Action::Final(leg, number), _) => {
                let guid = leg.epoch.0 * 1000 + u64::from(*number);
                if site.newest.0 != guid {
                    site.newest = (guid, site.data);
                }
                if site.is_writable() || site.fence != Some(*leg) {
                    wrong = Some("I2: the final snapshot was taken of a side that was not fenced");
                }
            }
            (Action::Unfence(former), 1) => site.readonly = on(former, "readonly", false),
            (Action::Unfence(former), 2) => site.canmount = on(former, "canmount", true),
            (Action::Unfence(_), _) => (site.fence, site.mounted) = (None, site.canmount),
            (Action::Unquiesce { anew }, _) => {
                site.app = true;
                site.stopping &= !anew;
                if !site.mounted {
                    wrong = Some("I2: the application was started without its dataset: what it acknowledges is lost");
                }
            }
            (Action::Activate { former, .. }, 1) => {
                let former = former.clone().unwrap_or_default();
                (site.readonly, site.canmount) = (on(&former, "readonly", false), on(&former, "canmount", true));
            }
            (Action::Activate { .. }, 2) => (site.fence, site.mounted) = (None, true),
            (Action::Activate { anew, .. }, _) => {
                site.app = true;
                site.stopping &= !anew;
            }
            (Action::Destroy(_), _) if !site.exists => {}
            (Action::Destroy(leg), _) => {
                if site.is_writable() || site.fence != Some(*leg) {
                    wrong = Some("I2: a side was destroyed that was not released");
                }
                site.forget();
            }
        }
        look(site, wrong);
    }
    match action {
        Action::ReadFormer(owed) => {
            let (readonly, canmount) = match owed {
                Some(former) => (on(former, "readonly", false), on(former, "canmount", true)),
                None => (site.readonly, site.canmount),
            };
            Outcome::Former(Arc::from([saved("readonly", text(readonly)), saved("canmount", text(canmount))]))
        }
        Action::Final(..) => Outcome::Final(Arc::from([Guid(site.newest.0)])),
        _ => Outcome::Done,
    }
}
