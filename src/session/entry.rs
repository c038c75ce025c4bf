//! Whether anything may come into a dataset that a cutover has marked. The plan asks the same at the side that leads; this
//! side does not rely on that.

use super::engine::EngineSession;
use crate::{
    plan::Refusal,
    types::{
        DatasetName, Failure, FailureClass,
        listing::{DatasetInfo, FENCE, SERVING},
    },
};

impl EngineSession {
    /// # Errors
    /// When the dataset, or the nearest above it that exists, serves, or is fenced and not on its way home.
    pub(super) async fn may_receive_into(&self, dataset: &DatasetName) -> Result<(), Failure> {
        let mut names = dataset.ancestors();
        names.push(dataset.clone());
        let there = self.zfs().datasets(&names).await?;
        // All lie above each other, so the longest name is the lowest.
        there.iter().max_by_key(|info| info.name.as_str().len()).map_or(Ok(()), |info| self.may_enter(info))
    }

    /// # Errors
    /// When the dataset serves, or is fenced and not on its way home.
    pub(super) fn may_enter(&self, info: &DatasetInfo) -> Result<(), Failure> {
        let mark = |property| info.property(property).map(|p| p.value.clone()).filter(|v| !matches!(&**v, "" | "-"));
        let target = info.name.clone();
        let refusal = match (mark(FENCE), mark(SERVING)) {
            (None, None) => return Ok(()),
            (Some(fence), _) => {
                let home = self.engine.cutovers.as_ref().map(|hosts| hosts.is_way_home(&target, &fence));
                if home.transpose()?.unwrap_or(false) {
                    return Ok(());
                }
                Refusal::Fenced { target, fence }
            }
            (None, Some(leg)) => Refusal::Serves { target, leg },
        };
        Err(Failure::new(FailureClass::Refused, &refusal).hint(refusal.hint()))
    }
}
