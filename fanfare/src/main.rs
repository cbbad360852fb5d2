//! One binary, a subcommand a role.

fn main() {}
