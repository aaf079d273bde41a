//! The rooms that read what outsiders write, and for each of them what must hold for every input.

pub mod allow;
pub mod backoff;
pub mod census;
pub mod cloud;
pub mod event;
pub mod model;
pub mod policy;
pub mod targets;
pub mod trust;
