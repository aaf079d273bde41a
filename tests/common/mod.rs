//! What the tests share: a world that behaves as EC2 and IAM do, and two fronts on it.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub mod fake;
pub mod faulty;
pub mod function;
pub mod ledger;
pub mod storm;
pub mod world;
