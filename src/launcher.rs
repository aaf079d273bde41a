//! What launched an instance, as far as its tags tell: where a launch forgets the profile, that is where to mend it.

use crate::model::Tags;

/// Tags that AWS's services put on what they launch, with the words for them; the first is the nearest to the cause.
const SOURCES: [(&str, &str); 6] = [
    ("aws:autoscaling:groupName", "auto-scaling-group"),
    ("eks:nodegroup-name", "eks-nodegroup"),
    ("aws:ec2:fleet-id", "ec2-fleet"),
    ("aws:ec2spot:fleet-request-id", "spot-fleet"),
    ("elasticbeanstalk:environment-name", "beanstalk-environment"),
    ("aws:cloudformation:stack-name", "cloudformation-stack"),
];
const TEMPLATE: &str = "aws:ec2launchtemplate:id";
const VERSION: &str = "aws:ec2launchtemplate:version";

/// The service's resource and the launch template that an instance came from; where it has neither, the principal that
/// launched it, if one is known.
#[must_use]
pub fn launch_source(tags: &Tags, principal: Option<&str>) -> Option<String> {
    let by_service = SOURCES
        .iter()
        .find_map(|(key, word)| tags.get(*key).map(|name| format!("{word} {}", excerpt(name))));
    let by_template = tags.get(TEMPLATE).map(|id| match tags.get(VERSION) {
        Some(version) => format!("launch-template {} version {}", excerpt(id), excerpt(version)),
        None => format!("launch-template {}", excerpt(id)),
    });
    match (by_service, by_template) {
        (Some(service), Some(template)) => Some(format!("{service}, {template}")),
        (one, other) => {
            one.or(other).or_else(|| principal.map(|arn| format!("principal {}", excerpt(arn))))
        }
    }
}

/// A tag's value can be anybody's, where AWS does not reserve its key.
fn excerpt(text: &str) -> String {
    const ENOUGH: usize = 128;
    text.chars().filter(|c| !c.is_control()).take(ENOUGH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_cause_is_named() {
        for (tags, principal, source) in [
            (vec![], None, None),
            (
                vec![("Name", "web")],
                Some("arn:aws:iam::123456789012:user/x"),
                Some("principal arn:aws:iam::123456789012:user/x"),
            ),
            (
                vec![("aws:autoscaling:groupName", "web"), ("aws:cloudformation:stack-name", "s")],
                Some("p"),
                Some("auto-scaling-group web"),
            ),
            (
                vec![("aws:ec2launchtemplate:id", "lt-0a"), ("aws:ec2launchtemplate:version", "3")],
                None,
                Some("launch-template lt-0a version 3"),
            ),
            (
                vec![("aws:ec2launchtemplate:id", "lt-0a"), ("aws:autoscaling:groupName", "web")],
                None,
                Some("auto-scaling-group web, launch-template lt-0a"),
            ),
            (
                vec![("aws:cloudformation:stack-name", "s\nx")],
                None,
                Some("cloudformation-stack sx"),
            ),
        ] {
            let tags =
                tags.into_iter().map(|(k, v): (&str, &str)| (k.to_owned(), v.to_owned())).collect();
            assert_eq!(launch_source(&tags, principal).as_deref(), source);
        }
    }
}
