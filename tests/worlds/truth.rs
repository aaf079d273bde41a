//! What truly is, and was: the instances and the profiles from moment to moment, and what a read shows of them.

use auto_instance_profile::model::Tags;

use crate::oracle::{Want, want};
use crate::plan::{self, Behind, Item, Ms, Rules, id};
use crate::watch::Watch;
use crate::world::{self, AwsError};

/// An instance as it truly was from a moment on.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub instance: Option<world::Instance>,
    pub rows: Vec<world::Association>,
    /// What we detached and nothing took the place of.
    pub owed: Option<String>,
}

impl View {
    pub fn attached(&self) -> Option<&world::Association> {
        let in_force = self.rows.iter().filter(|row| row.state.starts_with("associat"));
        in_force.max_by_key(|row| row.timestamp)
    }

    pub fn attached_arn(&self) -> Option<&str> {
        self.attached().map(|row| row.arn.as_str())
    }

    pub fn state_word(&self) -> &str {
        self.instance.as_ref().map_or("absent", |instance| &instance.state)
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.state_word(), "absent" | "terminated")
    }

    pub fn is_managed(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| instance.managed_by.is_some())
    }

    pub fn is_in_reach(&self) -> bool {
        matches!(self.state_word(), "running" | "stopped") && !self.is_managed()
    }

    pub fn want(&self, rules: Rules) -> Want {
        self.instance.as_ref().map_or(Want::Leave, |instance| want(rules, &instance.tags))
    }

    pub fn has_tags(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| !instance.tags.is_empty())
    }

    pub fn dies_out(&self) -> bool {
        self.rows.iter().any(|row| row.state == "disassociating")
    }
}

/// The name in a profile's ARN.
pub fn name_of(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or_default()
}

/// A profile as it truly was from a moment on.
#[derive(Debug, Clone)]
pub struct Known {
    from: Ms,
    /// Its id, while it is there.
    pub id: Option<String>,
    pub usable: bool,
}

impl Watch {
    /// Notes how an instance is now, so that reads can show it later and the invariants can look back.
    pub fn note(&mut self, who: usize) {
        let rows = self.world.describe_associations(&[id(who)]).unwrap();
        self.world.calls.clear();
        let instance = self.world.instances.get(&id(who)).cloned();
        for row in &rows {
            self.rows.insert(row.id.clone(), row.clone());
        }
        let mut view = View { instance, rows, owed: None };
        let none_is_wanted = view.want(self.rules) == Want::Bare;
        if view.attached().is_some() || view.is_gone() || none_is_wanted {
            self.debts[who] = None;
        }
        view.owed = self.debts[who].as_ref().map(|debt| debt.arn.clone());
        let now = self.now();
        self.past[who].push((now, view));
    }

    pub fn view(&self, who: usize) -> &View {
        &self.past[who].last().unwrap().1
    }

    /// The views between two moments, the one that held at the first among them.
    pub fn views(&self, who: usize, from: Ms) -> &[(Ms, View)] {
        let past = &self.past[who];
        let later = past.partition_point(|(at, _)| *at <= from);
        &past[later.saturating_sub(1)..]
    }

    /// Whether an instance was like this at some moment since then.
    pub fn ever(&self, who: usize, from: Ms, is: impl Fn(&View) -> bool) -> bool {
        self.views(who, from).iter().any(|(_, view)| is(view))
    }

    pub fn known(&self, name: &str, from: Ms) -> &[Known] {
        let Some(past) = self.profiles.get(name) else { return &[] };
        let later = past.partition_point(|known| known.from <= from);
        &past[later.saturating_sub(1)..]
    }

    pub fn is_there(&self, name: &str) -> Option<&Known> {
        self.profiles.get(name)?.last().filter(|known| known.id.is_some())
    }

    /// Whether EC2 would take this profile from the function now, and an instance would get credentials by it.
    pub fn is_attachable(&self, name: &str) -> bool {
        self.is_there(name).is_some_and(|known| known.usable)
            && self.world.profiles.get(name).is_some_and(|profile| !profile.unknown_to_ec2)
            && !self.world.not_passable.contains(name)
    }

    pub fn make_profile(&mut self, path: &str, name: &str, trusts: Option<&str>, unknown: bool) {
        self.world.make_profile(path, name, trusts);
        let made = self.world.profiles.get_mut(name).unwrap();
        made.unknown_to_ec2 = unknown;
        let id = Some(made.id.clone());
        let usable = trusts == Some("ec2.amazonaws.com");
        let known = Known { from: self.now(), id, usable };
        self.profiles.entry(name.to_owned()).or_default().push(known);
        if self.profiles[name].iter().any(|known| known.id.is_none()) {
            self.recreated.insert(name.to_owned());
        }
    }

    /// A profile's role is put into it.
    pub fn give_role(&mut self, name: &str) {
        let Some(profile) = self.world.profiles.get_mut(name) else { return };
        let trusts = "ec2.amazonaws.com".to_owned();
        profile.role = Some(world::Role { name: format!("{name}-role"), trusts });
        let id = Some(profile.id.clone());
        let known = Known { from: self.now(), id, usable: true };
        self.profiles.entry(name.to_owned()).or_default().push(known);
    }

    pub fn delete_profile(&mut self, name: &str) {
        self.world.profiles.remove(name);
        let known = Known { from: self.now(), id: None, usable: false };
        self.profiles.entry(name.to_owned()).or_default().push(known);
    }

    // What the function sees.

    /// The view that a read gets, which may be behind.
    pub fn view_as_read(&mut self, who: usize, what: Behind) -> View {
        self.note(who);
        let now = self.now();
        let lag = self.plan.items.iter().find_map(|item| match item {
            Item::Stale { from, to, who: of, what: read, lag }
                if *of == who && *read == what && (*from..=*to).contains(&now) =>
            {
                Some(*lag)
            }
            _ => None,
        });
        let Some(lag) = lag else { return self.view(who).clone() };
        let view = self.views(who, now.saturating_sub(lag))[0].1.clone();
        self.disturb(who);
        self.say(|| format!("  instance {who}: this read shows {what:?} of {lag} ms ago"));
        view
    }

    /// Whether this read leaves an instance's tags out.
    fn leaves_tags_out(&mut self, who: usize) -> bool {
        let now = self.now();
        let due = self.plan.items.iter().position(|item| {
            matches!(item, Item::Untagged { from, to, who: of, .. }
                if *of == who && (*from..=*to).contains(&now))
        });
        let Some(index) = due.filter(|index| self.times_left[*index] > 0) else { return false };
        self.times_left[index] -= 1;
        self.disturb(who);
        self.say(|| format!("  instance {who}: this read leaves its tags out"));
        true
    }

    /// What `DescribeInstances` shows of an instance now.
    pub fn show_instance(&mut self, id: &str) -> Option<world::Instance> {
        let who = plan::who(id);
        let mut shown = self.view_as_read(who, Behind::Instances).instance.clone()?;
        if self.leaves_tags_out(who) {
            shown.tags.clear();
        }
        Some(shown)
    }

    /// What `DescribeIamInstanceProfileAssociations` shows of an instance now.
    pub fn show_associations(&mut self, id: &str) -> Vec<world::Association> {
        self.view_as_read(plan::who(id), Behind::Associations).rows.clone()
    }

    /// What `DescribeTags` shows of an instance now.
    pub fn show_tags(&mut self, id: &str) -> Tags {
        let view = self.view_as_read(plan::who(id), Behind::Tags);
        view.instance.as_ref().map(|instance| instance.tags.clone()).unwrap_or_default()
    }

    pub fn show_profile(&mut self, name: &str) -> Result<world::Profile, AwsError> {
        self.world.get_instance_profile(name)
    }
}
