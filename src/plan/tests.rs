//! Tests of the planner: each rule by example, then all of them against a model of a target.

mod clones;
mod encryption;
mod model;
mod render;
mod rules;
mod support;
mod tokens;
mod tree;
