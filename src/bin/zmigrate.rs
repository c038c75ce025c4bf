//! The command `zmigrate`: parses its arguments and hands over.

fn main() {}
