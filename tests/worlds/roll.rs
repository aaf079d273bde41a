//! A plan from a seed: what chance makes of a world.

use crate::dice::Dice;
use crate::plan::{
    Behind, Fate, Fault, Item, Kind, Ms, Op, Own, Plan, Post, Rules, Spec, Stopped, TAGS,
};

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
        // Chance of its own for what came later, so that a seed's world stays what it was.
        let mut more = Dice::new(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0xfa11);
        let stopped = if seed.is_multiple_of(3) { Stopped::IsSwapped } else { Stopped::Waits };
        let dated = more.happens(0.5);
        let items = Vec::new();
        let mut plan = Self { seed, kind, rules, stopped, dated, batch, mends, instances, items };
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
            plan.make_wilder(&mut more, count, narrow.then_some(wake));
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
            self.items.push(Item::Untagged { from, to, who, times: 1 });
        }
        for _ in 0..dice.index(3).saturating_sub(1) {
            let at = when(dice);
            self.items.push(Item::Kill { at, slot: dice.index(2) });
        }
    }

    /// Reads that are far behind, tags that are left out for long, messages of the function's own that are lost, come
    /// twice or late, roles that come late, and associations that are never put into force.
    fn make_wilder(&mut self, dice: &mut Dice, count: usize, only: Option<Ms>) {
        let moments: Vec<Ms> = self.items.iter().map(Item::at).collect();
        let when = |dice: &mut Dice| match only {
            Some(at) => at + ms(dice, 0, 6_000),
            None => pick(dice, &moments).saturating_sub(500) + ms(dice, 0, 1_500),
        };
        for _ in 0..dice.index(4).saturating_sub(1) {
            let (from, lag, who) = (when(dice), ms(dice, 2_000, 60_000), dice.index(count));
            let to = from + ms(dice, 5_000, 90_000);
            let what = *pick(
                dice,
                &[Behind::Instances, Behind::Instances, Behind::Associations, Behind::Tags],
            );
            self.items.push(Item::Stale { from, to, who, what, lag });
        }
        if dice.happens(0.15) {
            let (from, who) = (when(dice), dice.index(count));
            let to = from + ms(dice, 10_000, 400_000);
            self.items.push(Item::Untagged { from, to, who, times: 1_000 });
        }
        if dice.happens(0.2) {
            let from = when(dice);
            let who = if dice.happens(0.5) { Some(dice.index(count)) } else { None };
            let (to, times) = (from + ms(dice, 2_000, 30_000), 1 + u32::from(dice.happens(0.3)));
            let fault = fault(dice, Op::Send);
            self.items.push(Item::Fault { from, to, op: Op::Send, who, times, fault });
        }
        if self.stopped == Stopped::IsSwapped {
            self.make_a_swap_go_wrong(dice, count, only);
        }
        if dice.happens(0.1) {
            // A tag is deleted that an entry of `ignore` goes by, and is shown for a while yet.
            let (at, who) = (when(dice), dice.index(count));
            if let Some(spec) = &mut self.instances[who] {
                (self.rules, spec.tags) = (Rules::Many, 15);
            }
            let (delay, lag) = (ms(dice, 0, 2_000), ms(dice, 2_000, 60_000));
            let post = Post { delay, copies: 1 };
            self.items.push(Item::Tag { at, who, tags: *pick(dice, &[0, 1, 1]), post });
            let (from, to) = (at, at + lag);
            self.items.push(Item::Stale { from, to, who, what: Behind::Instances, lag });
        }
        if dice.happens(0.3) {
            let (from, who) = (when(dice), dice.index(count));
            let to = from + ms(dice, 5_000, 900_000);
            let own = *pick(dice, &[Own::FinishSwap, Own::Verify, Own::Verify, Own::Found]);
            let late = Fate::Late(ms(dice, 1_000, 300_000));
            let fate = *pick(dice, &[Fate::Lost, Fate::Twice, late]);
            // What was written ahead may come late or twice; SQS loses nothing that it took. A message to verify by is
            // a second pair of eyes, and may go.
            let fate = if own == Own::Verify || fate != Fate::Lost { fate } else { Fate::Twice };
            self.items.push(Item::Letter { from, to, who, own, fate });
        }
        if dice.happens(0.15) {
            let (at, role_after) = (when(dice), ms(dice, 500, 60_000));
            let unknown_for = *pick(dice, &[0, 0, 8_000, 60_000]);
            self.items.push(Item::Make { at, unknown_for, role_after });
            let (who, tags) = (dice.index(count), 7);
            let post = Post { delay: ms(dice, 0, 2_000), copies: 1 };
            self.items.push(Item::Tag { at: at + ms(dice, 0, 2_000), who, tags, post });
        }
        if dice.happens(0.05) {
            let (from, who) = (when(dice), dice.index(count));
            self.items.push(Item::Stick { from, to: from + 30_000, who });
        }
        if dice.happens(0.05) {
            let at = when(dice).saturating_sub(ms(dice, 0, 8_000));
            let profile = *pick(dice, &["web", "db", "api"]);
            self.items.push(Item::Deny { at, profile });
        }
    }
}

impl Plan {
    /// Where all of it meets one instance a swap is due, and its middle is what faults are aimed at.
    fn make_a_swap_go_wrong(&mut self, dice: &mut Dice, count: usize, only: Option<Ms>) {
        if let (Some(spec), Some(_)) = (&mut self.instances[0], only) {
            let (attached, tags) = *pick(dice, &[("web", 3), ("web", 4), ("db", 1), ("db", 2)]);
            (spec.state, spec.attached, spec.tags) = ("stopped", Some(attached), tags);
        }
        if dice.happens(if only.is_some() { 0.6 } else { 0.3 }) {
            let who = Some(dice.index(count));
            let from = only.unwrap_or_else(|| ms(dice, 0, 10_000));
            let (to, times) = (from + ms(dice, 2_000, 90_000), 1 + u32::from(dice.happens(0.5)));
            let op = *pick(dice, &[Op::AssociateBare, Op::AssociateBare, Op::Disassociate]);
            let fault = fault(dice, op);
            self.items.push(Item::Fault { from, to, op, who, times, fault });
        }
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
        15 => Item::Make { at, unknown_for, role_after: 0 },
        16 => {
            Item::Deploy { at, rules: *pick(dice, &[Rules::ByTag, Rules::Many, Rules::Baseline]) }
        }
        17 => Item::Garbage { at },
        18 => Item::Redeliver { at },
        _ => Item::Wake { at, who, post },
    }
}

fn fault(dice: &mut Dice, op: Op) -> Fault {
    let writes = matches!(op, Op::Associate | Op::AssociateBare | Op::Replace | Op::Disassociate);
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
