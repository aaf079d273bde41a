//! Everything that chance decides about a world, as plain data: what is there, what happens when, and what goes wrong.
//!
//! A plan is made from a seed and nothing else. Taking an item out of it leaves the others as they are, so that a history
//! can be shortened by leaving things out.

use std::fmt;

use crate::dice::Dice;

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
    /// The missing profile is made.
    Make {
        at: Ms,
        unknown_for: Ms,
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
    /// `DescribeInstances` leaves out the tags once.
    Untagged {
        from: Ms,
        to: Ms,
        who: usize,
    },
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub kind: Kind,
    pub rules: Rules,
    pub batch: usize,
    /// Whether Replace mends an association with a profile that was made again; nobody outside AWS knows.
    pub mends: bool,
    pub instances: Vec<Option<Spec>>,
    pub items: Vec<Item>,
}

/// No read is further behind than this.
pub const MOST_BEHIND: Ms = 5_000;

impl Plan {
    /// The world of a seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
        let kind = match seed % 10 {
            0 => Kind::Quiet,
            1 => Kind::Duel,
            2 => Kind::DryRun,
            _ => Kind::Wild,
        };
        let rules = *pick(&mut dice, &[Rules::ByTag, Rules::Many, Rules::Baseline]);
        // In every other wild world all of it meets one instance within seconds, and there a swap is due as a rule.
        let narrow = seed % 10 >= 6;
        let one = narrow || kind == Kind::Duel;
        let count = if one { 1 } else { 1 + dice.index(4).min(dice.index(6)) };
        let mut instances: Vec<_> = (0..count).map(|_| Some(spec(&mut dice, kind))).collect();
        if narrow && dice.happens(0.7) {
            let attached = Some(*pick(&mut dice, &["web", "db", "admin"]));
            let tags = *pick(&mut dice, &[1, 2, 3, 3, 4, 5]);
            let stopped = Spec { state: "stopped", tags, attached, managed: false, launched: 0 };
            instances[0] = Some(stopped);
        }
        let batch = if kind == Kind::Duel { 1 } else { *pick(&mut dice, &[1, 1, 2, 10]) };
        let mends = dice.happens(0.5);
        let mut plan = Self { seed, kind, rules, batch, mends, instances, items: Vec::new() };
        for who in 0..count {
            let at = ms(&mut dice, 0, 3_000);
            // A copy comes a third of the delay later: in a duel while the first is being dealt with.
            let (copies, most) = if kind == Kind::Duel { (2, 300) } else { (1, 1_500) };
            let post = Post { delay: ms(&mut dice, 0, most), copies };
            plan.items.push(Item::Wake { at, who, post });
        }
        if matches!(kind, Kind::Wild | Kind::DryRun) {
            let wake = plan.items[0].at();
            plan.make_wild(&mut dice, count, narrow.then_some(wake));
            plan.add_sweeps();
        }
        plan
    }

    /// In every fourth world sweeps come in between, and the first may not get what it found onto the queue.
    fn add_sweeps(&mut self) {
        if self.seed % 4 != 3 {
            return;
        }
        let at = 1_000 + self.seed % 7_000;
        self.items.extend([Item::Sweep { at }, Item::Sweep { at: at + 2 * (self.seed % 1_500) }]);
        let fault = match self.seed % 5 {
            0 => Fault::Cut,
            1 => Fault::CutAfterwards,
            2 => Fault::DiesBefore,
            3 => Fault::DiesAfter,
            _ => return,
        };
        let (from, to) = (at, at + 10_000);
        self.items.push(Item::Fault { from, to, op: Op::Send, who: None, times: 1, fault });
    }

    /// Whether, once nothing happens any more, no event comes, but a sweep.
    pub fn is_swept(&self) -> bool {
        self.seed / 2 % 2 == 1
    }

    fn make_wild(&mut self, dice: &mut Dice, count: usize, only: Option<Ms>) {
        // Things happen together, or nothing would ever meet.
        let moments = [ms(dice, 0, 2_000), ms(dice, 5_000, 60_000), ms(dice, 20_000, 400_000)];
        let when = |dice: &mut Dice| match only {
            Some(at) => at + ms(dice, 0, 4_000),
            None => pick(dice, &moments) + ms(dice, 0, 2_500),
        };
        for _ in 0..dice.index(8) {
            let at = when(dice);
            let who = dice.index(count);
            self.items.push(action(dice, at, who));
        }
        for _ in 0..dice.index(7) {
            let from = when(dice);
            let to = from + ms(dice, 200, 15_000);
            let who = if dice.happens(0.7) { Some(dice.index(count)) } else { None };
            let op = *pick(dice, &OPS);
            let times = 1 + u32::try_from(dice.index(3)).unwrap();
            let fault = fault(dice, op);
            self.items.push(Item::Fault { from, to, op, who, times, fault });
        }
        for _ in 0..dice.index(4) {
            let from = when(dice);
            let to = from + ms(dice, 500, 10_000);
            let what = *pick(
                dice,
                &[Behind::Instances, Behind::Associations, Behind::Associations, Behind::Tags],
            );
            let (who, lag) = (dice.index(count), ms(dice, 300, 5_000));
            self.items.push(Item::Stale { from, to, who, what, lag });
        }
        if dice.happens(0.3) {
            let from = when(dice);
            let (to, who) = (from + 15_000, dice.index(count));
            self.items.push(Item::Untagged { from, to, who });
        }
        for _ in 0..dice.index(3).saturating_sub(1) {
            let at = when(dice);
            self.items.push(Item::Kill { at, slot: dice.index(2) });
        }
    }

    /// When the last thing of the plan is over.
    pub fn ends(&self) -> Ms {
        let of_item = |item: &Item| match item {
            Item::Fault { to, .. } | Item::Stale { to, .. } | Item::Untagged { to, .. } => *to,
            Item::Recreate { at, unknown_for, .. } | Item::Make { at, unknown_for } => {
                at + unknown_for
            }
            other => other.at() + 10_000,
        };
        let launches = self.instances.iter().flatten().map(|spec| spec.launched + 10_000);
        self.items.iter().map(of_item).chain(launches).max().unwrap_or(0)
    }
}

const OPS: [Op; 14] = [
    Op::Instances,
    Op::Associations,
    Op::Tags,
    Op::Profile,
    Op::Associate,
    Op::Associate,
    Op::Associate,
    Op::Associate,
    Op::Replace,
    Op::Replace,
    Op::Disassociate,
    Op::Disassociate,
    Op::Hide,
    Op::GiveUp,
];

pub fn ms(dice: &mut Dice, from: u32, to: u32) -> Ms {
    u64::try_from(dice.time(from..to).as_millis()).unwrap()
}

fn pick<'a, T>(dice: &mut Dice, of: &'a [T]) -> &'a T {
    &of[dice.index(of.len())]
}

fn post(dice: &mut Dice) -> Post {
    let delay = *pick(dice, &[0, 100, 100, 700, 2_000, 20_000]);
    Post { delay, copies: *pick(dice, &[0, 1, 1, 1, 1, 2]) }
}

fn spec(dice: &mut Dice, kind: Kind) -> Spec {
    let still = matches!(kind, Kind::Duel | Kind::Quiet);
    let state = *pick(dice, &["running", "running", "stopped", "stopped", "stopped", "pending"]);
    let state = if still && state == "pending" { "running" } else { state };
    let tags = if dice.happens(0.6) { 1 + dice.index(5) } else { dice.index(TAGS.len()) };
    let attached = *pick(dice, &[None, None, Some("web"), Some("db"), Some("db"), Some("admin")]);
    let launched = if !still && dice.happens(0.2) { ms(dice, 0, 20_000) } else { 0 };
    Spec { state, tags, attached, managed: dice.happens(0.06), launched }
}

fn action(dice: &mut Dice, at: Ms, who: usize) -> Item {
    let post = post(dice);
    let profile = *pick(dice, &["web", "db"]);
    let unknown_for = *pick(dice, &[0, 4_000, 12_000, 60_000]);
    match dice.index(20) {
        0..=5 => {
            let tags = if dice.happens(0.5) { dice.index(6) } else { dice.index(TAGS.len()) };
            Item::Tag { at, who, tags, post }
        }
        6 | 7 => Item::Stop { at, who, post },
        8 | 9 => Item::Start { at, who, post },
        10 => Item::Terminate { at, who },
        11 => Item::Attach { at, who, profile },
        12 => Item::Detach { at, who },
        13 => Item::Recreate { at, profile, unknown_for },
        14 => Item::Delete { at, profile },
        15 => Item::Make { at, unknown_for },
        16 => {
            Item::Deploy { at, rules: *pick(dice, &[Rules::ByTag, Rules::Many, Rules::Baseline]) }
        }
        17 => Item::Garbage { at },
        18 => Item::Redeliver { at },
        _ => Item::Wake { at, who, post },
    }
}

fn fault(dice: &mut Dice, op: Op) -> Fault {
    let writes = matches!(op, Op::Associate | Op::Replace | Op::Disassociate);
    let queue = matches!(op, Op::Hide | Op::GiveUp | Op::Send);
    if queue {
        return *pick(
            dice,
            &[Fault::Cut, Fault::CutAfterwards, Fault::DiesBefore, Fault::DiesAfter],
        );
    }
    let any = [
        Fault::Refused("RequestLimitExceeded", 503),
        Fault::Refused("Throttling", 400),
        Fault::Refused("InternalError", 500),
        Fault::Refused("Unavailable", 503),
        Fault::Cut,
        Fault::Hangs,
        Fault::DiesBefore,
        Fault::DiesAfter,
    ];
    // Codes that only a write can be answered with, and those that a person must act on.
    let of_writes = [
        Fault::CutAfterwards,
        Fault::CutAfterwards,
        Fault::Late(400),
        Fault::Late(2_500),
        Fault::DiesAfter,
        Fault::Refused("IncorrectState", 400),
        Fault::Refused("IncorrectInstanceState", 400),
        Fault::Refused("InvalidInstanceID.NotFound", 400),
        Fault::Refused("InvalidParameterValue", 400),
        Fault::Refused("UnauthorizedOperation", 403),
        Fault::Refused("SomethingNew", 400),
    ];
    if op == Op::Associate && dice.happens(0.1) {
        return Fault::DoneThenRefused;
    }
    if writes && dice.happens(0.6) { *pick(dice, &of_writes) } else { *pick(dice, &any) }
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
            | Self::Make { at, .. }
            | Self::Deploy { at, .. }
            | Self::Wake { at, .. }
            | Self::Garbage { at }
            | Self::Sweep { at }
            | Self::Redeliver { at }
            | Self::Kill { at, .. } => *at,
            Self::Fault { from, .. } | Self::Stale { from, .. } | Self::Untagged { from, .. } => {
                *from
            }
        }
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
        let Self { seed, kind, rules, batch, mends, .. } = self;
        writeln!(
            f,
            "world {seed}: {kind:?}, policy {rules:?}, batches of {batch}, replace mends: {mends}"
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
