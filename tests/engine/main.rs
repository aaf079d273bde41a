//! The engine without a network: pure rooms by table, reconciliation and handler over a modelled world.

#[path = "../common/mod.rs"]
mod common;

mod decide;
mod events;
mod handler;
mod properties;
mod reconcile;
mod rooms;
