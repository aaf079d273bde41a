//! What the benches that measure the built function share: its process, Lambda's Runtime API around it, Lambda's share of a
//! processor, and AWS's services on loopback.
#![allow(clippy::missing_errors_doc, reason = "what goes wrong ends the bench, in words")]

pub mod aws;
pub mod function;
pub mod machine;
pub mod run;
pub mod share;
pub mod tls;

/// What `DescribeInstances` says about one instance: all the elements that EC2 sends for a plain one, with places for what
/// differs.
pub const RESERVATION: &str = include_str!("instance.xml");
