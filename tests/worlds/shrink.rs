//! The shortest history that still fails: leave out halves, then single things, as long as the same invariant breaks.

use crate::mutation::Mutation;
use crate::plan::{Item, Plan};
use crate::promises::Invariant;
use crate::run::run;

/// Runs that shortening may take.
const RUNS: usize = 600;

pub fn shortest(plan: &Plan, mutation: Option<Mutation>, broken: Invariant) -> Plan {
    let mut runs = 0;
    let mut fails = |plan: &Plan| {
        runs += 1;
        runs <= RUNS
            && run(plan, mutation, false)
                .violation
                .is_some_and(|violation| violation.invariant == broken)
    };
    let mut best = plan.clone();
    loop {
        let before = size(&best);
        let mut width = best.items.len().div_ceil(2).max(1);
        loop {
            let mut from = 0;
            while from < best.items.len() {
                let to = (from + width).min(best.items.len());
                let mut shorter = best.clone();
                shorter.items.drain(from..to);
                if fails(&shorter) {
                    best = shorter;
                } else {
                    from = to;
                }
            }
            if width == 1 {
                break;
            }
            width = width.div_ceil(2);
        }
        for who in 0..best.instances.len() {
            let mut shorter = best.clone();
            if shorter.instances[who].take().is_some() && fails(&shorter) {
                best = shorter;
            }
        }
        for simpler in simpler(&best) {
            if fails(&simpler) {
                best = simpler;
            }
        }
        if size(&best) == before {
            return best;
        }
    }
}

fn size(plan: &Plan) -> (usize, usize, usize) {
    let instances = plan.instances.iter().flatten().count();
    (plan.items.len(), instances, plan.batch)
}

/// The same with one thing made plainer.
fn simpler(plan: &Plan) -> Vec<Plan> {
    let mut plans = Vec::new();
    if plan.batch > 1 {
        plans.push(Plan { batch: 1, ..plan.clone() });
    }
    for index in 0..plan.items.len() {
        let mut simpler = plan.clone();
        if let Item::Fault { times, .. } = &mut simpler.items[index]
            && *times > 1
        {
            *times = 1;
            plans.push(simpler);
        }
    }
    plans
}
