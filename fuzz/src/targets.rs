//! What must hold for every input, a function for each room: it takes bytes and panics where something does not hold.
//!
//! Nothing here asks the room under test what is right: names, patterns and templates are read a second time in the
//! plainest way there is.
#![allow(clippy::missing_panics_doc, reason = "that is what they are for")]

mod allow;
mod backoff;
mod codes;
mod event;
mod plain;
mod policy;
mod template;
mod trust;

pub use allow::allow;
pub use backoff::backoff;
pub use codes::codes;
pub use event::event;
pub use policy::policy;
pub use template::template;
pub use trust::trust;
