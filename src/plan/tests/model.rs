//! The plan against a model of a target.
