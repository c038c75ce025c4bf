//! The `Needs` port: what the jobs of this host still need of a dataset. Where ZFS shows no bookmarks and lists no holds,
//! this is how a job knows that another one's target has not got a snapshot yet.

use crate::{
    jobs::spare::Need,
    types::{DatasetName, JobName},
};

/// See the module.
pub trait Needs: Send + Sync {
    /// What each job that sends this dataset still needs of it, but for `except`. A job of which that is not known needs
    /// everything.
    fn of(&self, dataset: &DatasetName, except: Option<&JobName>) -> Vec<Need>;
}

/// No jobs.
#[derive(Clone, Copy, Debug)]
pub struct NoNeeds;

impl Needs for NoNeeds {
    fn of(&self, _: &DatasetName, _: Option<&JobName>) -> Vec<Need> {
        Vec::new()
    }
}
