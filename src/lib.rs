//! Gives every EC2 instance the IAM instance profile its tags require.
//!
//! An event names an instance; we look at that instance; a pure function says what should be done; we do exactly that; we
//! say how it ended. Why we were woken never changes what is right.
//!
//! | room | what it holds |
//! |---|---|
//! | [`model`] | checked identifiers and the facts EC2 and IAM answer with |
//! | [`event`] | JSON from `EventBridge`, SQS or a person, read into what is to be looked at |
//! | [`allow`], [`trust`], [`policy`] | tags to a requirement, and what IAM's answer leaves of it |
//! | [`decide`] | requirement and facts to one decision: the heart |
//! | [`cloud`], [`queue`], [`bus`] | the calls this job needs, and what others are told, in our words |
//! | [`aws`] | all three by AWS's SDK |
//! | [`profiles`] | what IAM answered lately |
//! | [`expectation`] | what an event says that a read must show |
//! | [`flapping`], [`verification`] | who keeps undoing what we do, and when each change is looked at again |
//! | [`pace`] | whose turn it is to write |
//! | [`backoff`] | when a message that is not done comes again |
//! | [`redaction`] | what may be written of texts that others wrote |
//! | [`redelivery`] | a batch at its queue: hidden, seen again, given up |
//! | [`reconcile`] | look, decide, act, look again; bounded |
//! | [`sweep`], [`census`] | every instance of a Region, and the counts of what was seen |
//! | [`launcher`] | what launched an instance that came up bare |
//! | [`metrics`] | what an invocation did, in numbers |
//! | [`failure`] | how it fails, and what that makes of the message |
//! | [`report`] | how it ended: outcome, log line, JSON |
//! | [`config`], [`handler`] | the environment, and Lambda's side of it |

pub mod allow;
#[cfg(feature = "aws")]
pub mod aws;
pub mod backoff;
pub mod bus;
pub mod census;
pub mod cloud;
pub mod config;
pub mod decide;
pub mod event;
pub mod expectation;
pub mod failure;
pub mod flapping;
pub mod handler;
pub mod launcher;
pub mod metrics;
pub mod model;
pub mod own_queue;
pub mod pace;
pub mod policy;
pub mod profiles;
pub mod queue;
pub mod reconcile;
pub mod redaction;
pub mod redelivery;
pub mod report;
pub mod sweep;
pub mod trust;
pub mod verification;
