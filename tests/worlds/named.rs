//! Worlds written by hand, one for each way in which the function was once found wrong. Each must keep every promise.

use std::fmt::Write as _;

use crate::plan::{Behind, Fault, Item, Kind, Ms, Op, Plan, Post, Rules, Spec, Stopped, TAGS};
use crate::run::{Ending, run};

/// How often the world is run: the seed decides nothing but the latencies.
const LATENCIES: u64 = 4;

const AT_ONCE: Post = Post { delay: 0, copies: 1 };
const LOST: Post = Post { delay: 0, copies: 0 };
/// A refusal that says that the request rate is used up.
const THROTTLED: Fault = Fault::Refused("RequestLimitExceeded", 503);

/// The place in [`TAGS`] of the tags that name this profile and nothing else.
fn tagged(profile: &str) -> usize {
    TAGS.iter().position(|tags| *tags == [("InstanceProfile", profile)]).unwrap()
}

fn world(instances: &[(&'static str, usize, Option<&'static str>)], items: &[Item]) -> Plan {
    let spec = |(state, tags, attached): &(&'static str, usize, Option<&'static str>)| {
        Some(Spec { state, tags: *tags, attached: *attached, managed: false, launched: 0 })
    };
    Plan {
        seed: 0,
        kind: Kind::Wild,
        rules: Rules::ByTag,
        stopped: Stopped::Waits,
        dated: true,
        batch: 1,
        mends: true,
        instances: instances.iter().map(spec).collect(),
        items: items.to_vec(),
    }
}

fn wake(at: Ms) -> Item {
    Item::Wake { at, who: 0, post: AT_ONCE }
}

fn tag(at: Ms, tags: usize) -> Item {
    Item::Tag { at, who: 0, tags, post: AT_ONCE }
}

fn stale(what: Behind, lag: Ms, from: Ms, to: Ms) -> Item {
    Item::Stale { from, to, who: 0, what, lag }
}

fn fault(op: Op, fault: Fault, from: Ms, to: Ms, times: u32) -> Item {
    Item::Fault { from, to, op, who: Some(0), times, fault }
}

impl Plan {
    fn with(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    fn swapping(self) -> Self {
        Self { stopped: Stopped::IsSwapped, ..self }
    }

    fn undated(self) -> Self {
        Self { dated: false, ..self }
    }

    #[track_caller]
    fn keeps_every_promise(self) {
        for seed in 0..LATENCIES {
            // Seeds whose end brings an event, and no sweep.
            let plan = Self { seed: seed * 4, ..self.clone() };
            let Ending { violation, history, .. } = run(&plan, None, true);
            let Some(violation) = violation else { continue };
            let mut text = format!("{:?}: {}\n\n{plan}\n", violation.invariant, violation.what);
            for (at, line) in history {
                writeln!(text, "{at:>9} ms  {line}").unwrap();
            }
            panic!("{text}");
        }
    }
}

/// Worlds in which a guard is needed that few others need.
pub fn revealing() -> [Plan; 3] {
    [deleted_tag_still_shown(), running_read_as_pending(), swap_cut_by_a_death()]
}

// A read is older than the event.

fn running_read_as_pending() -> Plan {
    let old = stale(Behind::Instances, 2_500, 2_900, 5_400);
    world(&[("pending", tagged("web"), None)], &[old])
}

#[test]
fn a_running_event_that_reads_pending_is_not_lost() {
    running_read_as_pending().keeps_every_promise();
}

#[test]
fn a_stopped_event_that_reads_stopping_is_not_lost() {
    let stop = Item::Stop { at: 1_000, who: 0, post: AT_ONCE };
    let instances = [("running", tagged("web"), None)];
    world(&instances, &[stop, stale(Behind::Instances, 2_500, 3_900, 6_400)]).keeps_every_promise();
}

#[test]
fn a_running_event_that_reads_stopped_is_not_lost() {
    let start = Item::Start { at: 1_000, who: 0, post: AT_ONCE };
    let instances = [("stopped", tagged("web"), Some("db"))];
    world(&instances, &[start, stale(Behind::Instances, 50_000, 900, 53_000)])
        .keeps_every_promise();
}

#[test]
fn a_tag_event_that_meets_pending_is_not_lost() {
    let lost = Item::Start { at: 1_000, who: 0, post: LOST };
    let instances = [("stopped", 0, None)];
    world(&instances, &[lost, tag(2_000, tagged("web"))]).keeps_every_promise();
}

/// The entry of `ignore` goes by the tag that is deleted.
fn deleted_tag_still_shown() -> Plan {
    let ignored = TAGS.iter().position(|tags| tags.contains(&("Hands", "off"))).unwrap();
    let old = stale(Behind::Instances, 2_500, 900, 3_400);
    world(&[("running", ignored, None)], &[tag(1_000, tagged("web")), old]).with(Rules::Many)
}

#[test]
fn a_deleted_tag_that_is_still_shown_is_not_believed() {
    deleted_tag_still_shown().keeps_every_promise();
}

#[test]
fn a_changed_tag_that_shows_late_is_waited_for() {
    let old = stale(Behind::Instances, 6_500, 900, 7_500);
    world(&[("running", tagged("web"), Some("web"))], &[tag(1_000, tagged("api")), old])
        .keeps_every_promise();
}

#[test]
fn a_changed_tag_that_shows_after_a_minute_is_waited_for() {
    let old = stale(Behind::Instances, 60_000, 900, 61_500);
    world(&[("running", tagged("web"), Some("web"))], &[tag(1_000, tagged("api")), old])
        .keeps_every_promise();
}

#[test]
fn tags_left_out_of_a_read_are_read_otherwise() {
    let untagged = Item::Untagged { from: 2_000, to: 600_000, who: 0, times: 1_000 };
    world(&[("pending", tagged("web"), None)], &[untagged]).keeps_every_promise();
}

#[test]
fn tags_that_two_reads_disagree_on_are_read_again() {
    let retired = TAGS.iter().position(|tags| tags.contains(&("Life", "retired"))).unwrap();
    let old = stale(Behind::Tags, 20_000, 900, 21_500);
    world(&[("running", tagged("web"), Some("web"))], &[tag(1_000, retired), old])
        .with(Rules::Many)
        .keeps_every_promise();
}

#[test]
fn a_profile_whose_role_comes_late_is_waited_for() {
    let make = Item::Make { at: 500, unknown_for: 0, role_after: 4_000 };
    world(&[("running", 0, None)], &[make, tag(1_000, tagged("missing"))]).keeps_every_promise();
}

// An instance is left without a profile.

fn swap_cut_by_a_death() -> Plan {
    let dies = fault(Op::AssociateBare, Fault::DiesBefore, 0, 60_000, 1);
    world(&[("stopped", tagged("db"), Some("web"))], &[wake(1_000), dies])
        .with(Rules::Many)
        .swapping()
}

#[test]
fn a_swap_cut_by_a_death_is_ended_under_when_absent_leave() {
    swap_cut_by_a_death().keeps_every_promise();
}

#[test]
fn a_swap_that_is_throttled_is_ended_under_when_absent_leave() {
    let throttled = fault(Op::AssociateBare, THROTTLED, 0, 60_000, 1);
    world(&[("stopped", tagged("db"), Some("web"))], &[wake(1_000), throttled])
        .with(Rules::Many)
        .swapping()
        .keeps_every_promise();
}

#[test]
fn a_swap_whose_every_associate_is_throttled_for_a_while_is_ended() {
    let throttled = fault(Op::AssociateBare, THROTTLED, 0, 90_000, 1_000);
    world(&[("stopped", tagged("db"), Some("web"))], &[wake(1_000), throttled])
        .with(Rules::Many)
        .swapping()
        .keeps_every_promise();
}

#[test]
fn an_instance_started_in_the_middle_of_a_swap_gets_a_profile() {
    let cut = fault(Op::AssociateBare, Fault::Cut, 0, 60_000, 3);
    for start in [1_460, 1_520, 1_600, 1_900] {
        let start = Item::Start { at: start, who: 0, post: LOST };
        let old = stale(Behind::Instances, 5_000, 3_500, 25_000);
        let items = [wake(1_000), start, cut.clone(), old];
        world(&[("stopped", tagged("web"), Some("db"))], &items).swapping().keeps_every_promise();
    }
}

#[test]
fn a_tag_deleted_in_the_middle_of_a_swap_leaves_a_profile() {
    let refused = fault(Op::AssociateBare, Fault::Refused("InternalError", 500), 0, 6_000, 1_000);
    let dies = fault(Op::AssociateBare, Fault::DiesBefore, 0, 60_000, 1);
    for broken in [refused, dies] {
        for deleted in [1_500, 2_000, 5_000] {
            let items = [wake(1_000), tag(deleted, 0), broken.clone()];
            world(&[("stopped", tagged("web"), Some("db"))], &items)
                .swapping()
                .keeps_every_promise();
        }
    }
}

#[test]
fn nothing_is_detached_for_a_profile_that_may_not_be_attached() {
    let denied = Item::Deny { at: 0, profile: "web" };
    let sweeps = (1..6).map(|hour| Item::Sweep { at: hour * 3_600_000 });
    let items: Vec<_> = [denied, wake(1_000)].into_iter().chain(sweeps).collect();
    world(&[("stopped", tagged("web"), Some("db"))], &items).swapping().keeps_every_promise();
}

#[test]
fn nothing_is_detached_by_an_answer_of_iam_from_before() {
    // Both environments have asked.
    let other = Item::Wake { at: 1_000, who: 1, post: Post { delay: 0, copies: 2 } };
    let moved = Item::Move { at: 120_000, profile: "web", path: "/app/" };
    let attached = Item::Attach { at: 121_000, who: 0, profile: "web" };
    let instances = [("stopped", tagged("web"), None), ("running", tagged("web"), None)];
    let items = [other, moved, attached, wake(122_000)];
    world(&instances, &items).swapping().keeps_every_promise();
}

#[test]
fn a_profile_that_cannot_be_put_back_is_not_detached() {
    world(&[("stopped", tagged("web"), Some("admin"))], &[wake(1_000)])
        .swapping()
        .keeps_every_promise();
}

#[test]
fn a_stopped_instance_with_another_profile_waits_until_it_runs() {
    let start = Item::Start { at: 60_000, who: 0, post: AT_ONCE };
    world(&[("stopped", tagged("web"), Some("db"))], &[wake(1_000), start]).keeps_every_promise();
}

#[test]
fn a_detachment_carried_out_late_is_made_good() {
    let late = fault(Op::Disassociate, Fault::Late(2_500), 0, 60_000, 1);
    let untagged = tag(3_000, 0);
    world(&[("stopped", tagged("web"), Some("db"))], &[wake(1_000), late, untagged])
        .swapping()
        .keeps_every_promise();
}

#[test]
fn a_swap_is_ended_although_the_list_is_a_minute_behind() {
    let dies = fault(Op::AssociateBare, Fault::DiesBefore, 0, 60_000, 1);
    let old = stale(Behind::Associations, 60_000, 1_000, 120_000);
    world(&[("stopped", tagged("web"), Some("db"))], &[wake(1_000), dies, old])
        .swapping()
        .keeps_every_promise();
}

// What is said of a write.

#[test]
fn a_throttled_replacement_of_a_recreated_profile_is_tried_again() {
    let again = Item::Recreate { at: 500, profile: "web", unknown_for: 0 };
    let throttled = fault(Op::Replace, THROTTLED, 0, 60_000, 1);
    world(&[("running", tagged("web"), Some("web"))], &[again, wake(1_000), throttled])
        .keeps_every_promise();
}

#[test]
fn a_mended_recreated_profile_is_told_by_the_writes_answer() {
    let again = Item::Recreate { at: 500, profile: "web", unknown_for: 0 };
    let old = stale(Behind::Associations, 2_500, 900, 20_000);
    world(&[("running", tagged("web"), Some("web"))], &[again, wake(5_000), old])
        .keeps_every_promise();
}

#[test]
fn a_recreated_profile_that_stays_raises_an_alarm() {
    let again = Item::Recreate { at: 500, profile: "web", unknown_for: 0 };
    let plan = world(&[("running", tagged("web"), Some("web"))], &[again, wake(1_000)]);
    Plan { mends: false, ..plan }.keeps_every_promise();
}

#[test]
fn an_associate_whose_answer_is_lost_is_told_as_ours() {
    let lost = fault(Op::Associate, Fault::CutAfterwards, 0, 60_000, 1);
    world(&[("running", tagged("web"), None)], &[wake(1_000), lost]).keeps_every_promise();
}

#[test]
fn a_replace_whose_answer_is_lost_is_told_as_ours() {
    let lost = fault(Op::Replace, Fault::CutAfterwards, 0, 60_000, 1);
    world(&[("running", tagged("web"), Some("db"))], &[wake(1_000), lost]).keeps_every_promise();
}

#[test]
fn a_swap_with_a_look_in_between_is_told_from_the_beginning() {
    let conflict = Fault::Refused("IncorrectState", 400);
    let moved = fault(Op::AssociateBare, conflict, 0, 60_000, 1);
    world(&[("stopped", tagged("web"), Some("db"))], &[wake(1_000), moved])
        .swapping()
        .keeps_every_promise();
}

// Silence.

#[test]
fn an_association_never_put_into_force_raises_an_alarm() {
    for plan in [
        world(&[("running", tagged("web"), None)], &[wake(1_000)]),
        world(&[("running", tagged("web"), Some("db"))], &[wake(1_000)]),
    ] {
        let mut plan = plan;
        plan.items.push(Item::Stick { from: 0, to: 60_000, who: 0 });
        plan.clone().keeps_every_promise();
        plan.undated().keeps_every_promise();
    }
}

#[test]
fn a_tool_that_keeps_undoing_raises_an_alarm() {
    let hours = 6 * 3_600_000;
    let undo = Item::Undo { from: 0, to: hours, who: 0, profile: "db", after: 30_000 };
    world(&[("running", tagged("web"), None)], &[wake(1_000), undo]).keeps_every_promise();
}

#[test]
fn a_missing_right_raises_an_alarm() {
    let denied = Item::Deny { at: 0, profile: "web" };
    for instance in [("running", None), ("running", Some("db")), ("stopped", Some("db"))] {
        let (state, attached) = instance;
        world(&[(state, tagged("web"), attached)], &[denied.clone(), wake(1_000)])
            .swapping()
            .keeps_every_promise();
    }
}

#[test]
fn a_rule_that_keeps_others_watches_its_own_profile() {
    let gap = TAGS.iter().position(|tags| tags.contains(&("Tier", "gap"))).unwrap();
    let again = Item::Recreate { at: 500, profile: "web", unknown_for: 0 };
    world(&[("running", gap, Some("web"))], &[again, wake(400_000)])
        .with(Rules::Many)
        .keeps_every_promise();
}

#[test]
fn a_refused_put_back_beside_another_profile_is_no_alarm() {
    // Nothing was detached, as far as anybody can tell, and then the reads are behind the event.
    let lost = fault(Op::Disassociate, Fault::Refused("InternalError", 500), 0, 8_000, 1);
    for from in [1_360, 1_400, 1_440, 1_480, 1_520] {
        let old = stale(Behind::Instances, 60_000, from, 62_000);
        let items = [tag(1_000, tagged("web")), lost.clone(), old];
        world(&[("stopped", 0, Some("db"))], &items).swapping().keeps_every_promise();
    }
}

#[test]
fn a_lost_try_that_attached_the_profile_is_told_as_an_associate() {
    for detached in [1_380, 1_400, 1_420, 1_440] {
        let detached = Item::Detach { at: detached, who: 0 };
        let lost = fault(Op::AssociateBare, Fault::CutAfterwards, 0, 60_000, 1);
        world(&[("stopped", tagged("web"), Some("db"))], &[wake(1_000), detached, lost])
            .swapping()
            .keeps_every_promise();
    }
}

#[test]
fn a_write_whose_answer_is_lost_is_verified_when_it_shows() {
    let lost = fault(Op::Associate, Fault::CutAfterwards, 0, 60_000, 1);
    let old = stale(Behind::Associations, 55_000, 900, 67_000);
    let stick = Item::Stick { from: 0, to: 60_000, who: 0 };
    world(&[("running", tagged("web"), None)], &[wake(1_000), lost, old, stick])
        .keeps_every_promise();
}

#[test]
fn a_try_that_was_denied_once_is_made_again() {
    let denied = Fault::Refused("UnauthorizedOperation", 403);
    let once = fault(Op::Associate, denied, 0, 60_000, 1);
    world(&[("stopped", tagged("web"), Some("db"))], &[wake(1_000), once])
        .swapping()
        .keeps_every_promise();
}
