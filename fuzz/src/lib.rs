//! The readers of what outsiders write, and for each of them what must hold for every input.

pub mod targets;
