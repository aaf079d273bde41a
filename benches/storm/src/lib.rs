//! The shipped rooms by symbolic link, without those that name the SDK.

pub mod allow;
pub mod backoff;
pub mod bus;
pub mod census;
pub mod cloud;
pub mod config;
pub mod contest;
pub mod decide;
pub mod event;
pub mod failure;
pub mod handler;
pub mod launcher;
pub mod metrics;
pub mod model;
pub mod pace;
pub mod policy;
pub mod profiles;
pub mod queue;
pub mod reconcile;
pub mod redelivery;
pub mod report;
pub mod sweep;
pub mod trust;
