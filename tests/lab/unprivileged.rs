//! A target whose `zmigrated` is not root, with the permissions of docs/unprivileged.md.

use crate::Case;

pub const CASES: &[Case] = &[];
