//! What the kernels say of all that was done.

use crate::{
    Case,
    guest::{Guest, lab},
    world::World,
};

pub const CASES: &[Case] = &[("no_kernel_complains", no_kernel_complains)];

fn no_kernel_complains(w: &World) {
    for Guest(n) in [w.one, w.two] {
        let said = lab(&["panics", &n.to_string()]);
        assert!(said.code == 0, "guest {n}:\n{}{}", said.out, said.err);
    }
}
