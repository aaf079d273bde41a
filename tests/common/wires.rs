//! What the tests of the built function share: the world, and the two wires that they alone have use for.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub mod runtime_api;
pub mod wire;
pub mod world;
