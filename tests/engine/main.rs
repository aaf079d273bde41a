//! The engine without a network: pure rooms by table, reconciliation and handler over a modelled world.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "../common/mod.rs"]
mod common;

mod arithmetic;
mod complaints;
mod decide;
mod events;
mod flapping;
mod follow_ups;
mod handler;
mod lines;
mod operator;
mod policies;
mod properties;
mod queues;
mod reconcile;
mod requirements;
mod rooms;
mod settings;
mod storm;
mod sweep;
