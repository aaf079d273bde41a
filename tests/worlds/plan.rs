//! Everything that chance decides about a world, as plain data: what is there, what happens when, and what goes wrong.
//!
//! A plan is made from a seed and nothing else. Taking an item out of it leaves the others as they are, so that a history
//! can be shortened by leaving things out.

use std::fmt;

/// Milliseconds of virtual time since the world began.
pub type Ms = u64;

/// The profiles of every world: name, path, and what there is about it.
pub const PROFILES: [(&str, &str, Made); 6] = [
    ("web", "/", Made::Usable),
    ("db", "/", Made::Usable),
    ("api", "/app/", Made::Usable),
    ("admin", "/", Made::Usable),
    ("empty", "/", Made::WithoutRole),
    ("alien", "/", Made::TrustingLambda),
];

/// What a profile is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    Usable,
    WithoutRole,
    TrustingLambda,
}

/// Sets of tags that an instance may come to have.
pub const TAGS: [&[(&str, &str)]; 16] = [
    &[],
    &[("InstanceProfile", "web")],
    &[("InstanceProfile", "web"), ("Name", "one")],
    &[("InstanceProfile", "db")],
    &[("InstanceProfile", "api")],
    &[("InstanceProfile", "arn:aws:iam::123456789012:instance-profile/db")],
    &[("InstanceProfile", "admin")],
    &[("InstanceProfile", "missing")],
    &[("InstanceProfile", "")],
    &[("InstanceProfile", "no such name!")],
    &[("InstanceProfile", "arn:aws:iam::111122223333:instance-profile/web")],
    &[("InstanceProfile", "empty")],
    &[("InstanceProfile", "alien")],
    &[("Life", "retired"), ("Name", "two")],
    &[("Tier", "gap")],
    &[("Hands", "off"), ("InstanceProfile", "web")],
];

/// Which policy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rules {
    /// The built-in one.
    ByTag,
    /// Entries of `ignore`, `none`, and rules that keep or leave.
    Many,
    /// A profile for every instance that names none.
    Baseline,
}

/// What happens to another profile while the instance is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stopped {
    /// It waits until the instance runs.
    Waits,
    /// It is swapped.
    IsSwapped,
}

/// How a world is wired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything happens.
    Wild,
    /// No faults, no stale reads, no other hands: every write is counted.
    Quiet,
    /// Two environments at once on one instance, and nothing else.
    Duel,
    /// Anything happens, and nothing may be written.
    DryRun,
}

#[derive(Debug, Clone)]
pub struct Spec {
    pub state: &'static str,
    pub tags: usize,
    pub attached: Option<&'static str>,
    pub managed: bool,
    /// When it is launched; at once, as a rule.
    pub launched: Ms,
}

/// How the events of an action arrive.
#[derive(Debug, Clone, Copy)]
pub struct Post {
    pub delay: Ms,
    /// None: the event is lost. Two: it comes twice.
    pub copies: u8,
}

/// The calls that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Instances,
    Associations,
    Tags,
    Profile,
    Associate,
    /// Only where nothing is attached: not where a swap tries whether it would be allowed to.
    AssociateBare,
    Replace,
    Disassociate,
    Hide,
    GiveUp,
    Send,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// AWS refuses it with this code and status, and carries nothing out.
    Refused(&'static str, u16),
    /// The connection is cut before it was carried out.
    Cut,
    /// It is carried out, and the answer is lost.
    CutAfterwards,
    /// The caller gives it up as lost, and it is carried out this much later all the same.
    Late(Ms),
    /// It is carried out, the answer is lost, and the next try finds it done.
    DoneThenRefused,
    /// No answer within the call's time.
    Hangs,
    /// The execution environment dies before the call is carried out.
    DiesBefore,
    /// The execution environment dies once the call is carried out.
    DiesAfter,
}

/// The messages that the function sends to its own queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// What is about to be detached, written ahead.
    FinishSwap,
    /// To look again at what was written.
    Verify,
    /// What a sweep found.
    Found,
}

/// What becomes of a message of the function's own once SQS took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Twice,
    /// It is seen this much later.
    Late(Ms),
}

/// Which read is behind the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    Instances,
    Associations,
    Tags,
}

#[derive(Debug, Clone)]
pub enum Item {
    /// The instance is given these tags.
    Tag {
        at: Ms,
        who: usize,
        tags: usize,
        post: Post,
    },
    Stop {
        at: Ms,
        who: usize,
        post: Post,
    },
    Start {
        at: Ms,
        who: usize,
        post: Post,
    },
    Terminate {
        at: Ms,
        who: usize,
    },
    /// Another tool's work.
    Attach {
        at: Ms,
        who: usize,
        profile: &'static str,
    },
    Detach {
        at: Ms,
        who: usize,
    },
    /// The profile is deleted and made again: same ARN, new id; EC2 does not know it for a while.
    Recreate {
        at: Ms,
        profile: &'static str,
        unknown_for: Ms,
    },
    Delete {
        at: Ms,
        profile: &'static str,
    },
    /// The profile is deleted and made again at another path: another ARN, another id, the same name.
    Move {
        at: Ms,
        profile: &'static str,
        path: &'static str,
    },
    /// The missing profile is made; EC2 does not know it for a while, and its role is put into it later.
    Make {
        at: Ms,
        unknown_for: Ms,
        role_after: Ms,
    },
    /// The function is deployed with another policy.
    Deploy {
        at: Ms,
        rules: Rules,
    },
    /// An event about the instance, of nothing that changed.
    Wake {
        at: Ms,
        who: usize,
        post: Post,
    },
    /// A message that cannot be read.
    Garbage {
        at: Ms,
    },
    /// The schedule asks for a sweep.
    Sweep {
        at: Ms,
    },
    /// SQS shows every message that is hidden once more.
    Redeliver {
        at: Ms,
    },
    /// An execution environment dies.
    Kill {
        at: Ms,
        slot: usize,
    },
    /// Calls go wrong for a while, so many of them.
    Fault {
        from: Ms,
        to: Ms,
        op: Op,
        who: Option<usize>,
        times: u32,
        fault: Fault,
    },
    /// Reads show what was, for a while.
    Stale {
        from: Ms,
        to: Ms,
        who: usize,
        what: Behind,
        lag: Ms,
    },
    /// `DescribeInstances` leaves out the tags, so many times.
    Untagged {
        from: Ms,
        to: Ms,
        who: usize,
        times: u32,
    },
    /// Something becomes of messages that the function sends to its own queue about the instance.
    Letter {
        from: Ms,
        to: Ms,
        who: usize,
        own: Own,
        fate: Fate,
    },
    /// Associations made meanwhile are never put into force.
    Stick {
        from: Ms,
        to: Ms,
        who: usize,
    },
    /// From here on the function's role may not pass this profile's role.
    Deny {
        at: Ms,
        profile: &'static str,
    },
    /// Another tool attaches a profile of its own, this long after each write of ours.
    Undo {
        from: Ms,
        to: Ms,
        who: usize,
        profile: &'static str,
        after: Ms,
    },
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub kind: Kind,
    pub rules: Rules,
    pub stopped: Stopped,
    /// Whether EC2 says of its associations when they were made.
    pub dated: bool,
    pub batch: usize,
    /// Whether Replace mends an association with a profile that was made again; nobody outside AWS knows.
    pub mends: bool,
    pub instances: Vec<Option<Spec>>,
    pub items: Vec<Item>,
}

impl Plan {
    /// How far behind the truth any read of an instance may be.
    pub fn most_behind(&self, of: usize) -> Ms {
        self.items.iter().filter_map(|item| item.lag_of(of, |_| true)).max().unwrap_or(0)
    }

    /// Whether a read of this kind is behind the truth at any time.
    pub fn is_behind(&self, of: usize, which: Behind) -> bool {
        self.items.iter().any(|item| item.lag_of(of, |what| what == which).is_some())
    }

    pub fn leaves_tags_out(&self, of: usize) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Untagged { who, .. } if *who == of))
    }

    /// When the last thing of the plan is over.
    pub fn ends(&self) -> Ms {
        let of_item = |item: &Item| match item {
            Item::Fault { to, .. }
            | Item::Stale { to, .. }
            | Item::Untagged { to, .. }
            | Item::Letter { to, .. }
            | Item::Stick { to, .. }
            | Item::Undo { to, .. } => *to,
            Item::Recreate { at, unknown_for, .. } => at + unknown_for,
            Item::Make { at, unknown_for, role_after } => at + unknown_for.max(role_after),
            other => other.at() + 10_000,
        };
        let launches = self.instances.iter().flatten().map(|spec| spec.launched + 10_000);
        self.items.iter().map(of_item).chain(launches).max().unwrap_or(0)
    }
}

impl Item {
    /// When it begins.
    pub fn at(&self) -> Ms {
        match self {
            Self::Tag { at, .. }
            | Self::Stop { at, .. }
            | Self::Start { at, .. }
            | Self::Terminate { at, .. }
            | Self::Attach { at, .. }
            | Self::Detach { at, .. }
            | Self::Recreate { at, .. }
            | Self::Delete { at, .. }
            | Self::Move { at, .. }
            | Self::Make { at, .. }
            | Self::Deploy { at, .. }
            | Self::Wake { at, .. }
            | Self::Garbage { at }
            | Self::Sweep { at }
            | Self::Redeliver { at }
            | Self::Deny { at, .. }
            | Self::Kill { at, .. } => *at,
            Self::Fault { from, .. }
            | Self::Stale { from, .. }
            | Self::Untagged { from, .. }
            | Self::Letter { from, .. }
            | Self::Stick { from, .. }
            | Self::Undo { from, .. } => *from,
        }
    }

    fn lag_of(&self, of: usize, is: impl Fn(Behind) -> bool) -> Option<Ms> {
        match self {
            Self::Stale { who, what, lag, .. } if *who == of && is(*what) => Some(*lag),
            _ => None,
        }
    }

    /// Whether nothing happens at its time: it only says how something goes.
    pub fn is_quiet(&self) -> bool {
        matches!(
            self,
            Self::Fault { .. }
                | Self::Stale { .. }
                | Self::Untagged { .. }
                | Self::Letter { .. }
                | Self::Stick { .. }
                | Self::Undo { .. }
                | Self::Wake { .. }
        )
    }
}

/// An instance's id.
pub fn id(who: usize) -> String {
    format!("i-{who:017x}")
}

/// The number in an instance's id.
pub fn who(id: &str) -> usize {
    usize::from_str_radix(&id[2..], 16).unwrap()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, kind, rules, stopped, dated, batch, mends, .. } = self;
        writeln!(
            f,
            "world {seed}: {kind:?}, policy {rules:?}, a stopped instance's other profile {stopped:?}, batches of \
             {batch}, replace mends: {mends}, associations are dated: {dated}"
        )?;
        for (who, spec) in self.instances.iter().enumerate() {
            let Some(spec) = spec else { continue };
            let Spec { state, tags, attached, managed, launched } = spec;
            write!(f, "  instance {who}: {state}, tags {:?}, has {attached:?}", TAGS[*tags])?;
            writeln!(f, ", managed by a service: {managed}, launched at {launched} ms")?;
        }
        for item in &self.items {
            writeln!(f, "  {item:?}")?;
        }
        Ok(())
    }
}
