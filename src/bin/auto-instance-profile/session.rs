//! AWS as a person's machine describes it. What the SDK would pass over in silence, or answer in words of its own, is
//! refused here with what to do about it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use auto_instance_profile::aws::Aws;
use auto_instance_profile::model::Region;

use crate::Trouble;
use crate::show::printable;

/// The profile that holds where none is named.
const DEFAULT: &str = "default";
/// Variables that name an endpoint, for all services and for those that are called.
const ENDPOINTS: [&str; 7] = [
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_EC2",
    "AWS_ENDPOINT_URL_IAM",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_ENDPOINT_URL_STS",
    "AWS_ENDPOINT_URL_SSO",
    "AWS_ENDPOINT_URL_SSO_OIDC",
];

/// AWS by the environment and AWS's files, through the proxy that the environment names.
pub async fn open(region: Option<&Region>) -> Result<Aws, Trouble> {
    let machine = Machine { variable: &variable, file: &|file| fs::read_to_string(file).ok() };
    machine.check().map_err(Trouble::Usage)?;
    Ok(Aws::from_env_behind_proxy(region).await)
}

#[expect(clippy::disallowed_methods, reason = "what the SDK reads there is checked before it does")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where settings come from.
struct Machine<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    file: &'a dyn Fn(&Path) -> Option<String>,
}

/// The settings of each profile, by its name.
type Profiles = BTreeMap<String, BTreeMap<String, String>>;

impl Machine<'_> {
    /// Whether the SDK will understand all that is said, or what a person is to do about it.
    fn check(&self) -> Result<(), String> {
        let named = self.set("AWS_PROFILE");
        let (config, credentials) = self.files();
        let profiles = profiles(
            &(self.file)(&config).unwrap_or_default(),
            &(self.file)(&credentials).unwrap_or_default(),
        );
        if let Some(named) = &named
            && !profiles.contains_key(named)
        {
            let names: Vec<_> = profiles.keys().map(|name| printable(name)).collect();
            let others = if names.is_empty() { "no profile".to_owned() } else { names.join(", ") };
            return Err(format!(
                "AWS_PROFILE names the profile {}, and there is none of that name; {} and {} have {others}",
                printable(named),
                config.display(),
                credentials.display()
            ));
        }
        let selected = named.as_deref().unwrap_or(DEFAULT);
        // Keys in the environment come first.
        let has_keys =
            self.set("AWS_ACCESS_KEY_ID").is_some() && self.set("AWS_SECRET_ACCESS_KEY").is_some();
        if !has_keys {
            check_credentials_of(selected, &profiles)?;
        }
        let endpoints = self.endpoints(profiles.get(selected))?;
        self.check_proxies(endpoints.iter().any(|url| url.starts_with("http://")))
    }

    /// A variable that is set to something.
    fn set(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    fn files(&self) -> (PathBuf, PathBuf) {
        let home = PathBuf::from(self.set("HOME").unwrap_or_default());
        let path = |name: &str, default: &str| match self.set(name) {
            Some(path) => {
                path.strip_prefix("~/").map_or(PathBuf::from(&path), |rest| home.join(rest))
            }
            None => home.join(".aws").join(default),
        };
        (path("AWS_CONFIG_FILE", "config"), path("AWS_SHARED_CREDENTIALS_FILE", "credentials"))
    }

    fn endpoints(&self, profile: Option<&BTreeMap<String, String>>) -> Result<Vec<String>, String> {
        let named = ENDPOINTS.iter().filter_map(|name| Some((*name, (self.variable)(name)?)));
        let in_file = profile.and_then(|profile| profile.get("endpoint_url"));
        let all =
            named.chain(in_file.map(|url| ("endpoint_url in AWS's configuration", url.clone())));
        all.map(|(name, url)| {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            if rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':', '?'])) {
                return Ok(url);
            }
            Err(format!(
                "{name} is {:?}, and an endpoint is a URL that begins with https:// or http://, such as \
                 http://localhost:5000",
                printable(&url)
            ))
        })
        .collect()
    }

    /// A proxy that is named and cannot be used would be passed over, and the call go nowhere.
    fn check_proxies(&self, has_plain_endpoint: bool) -> Result<(), String> {
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| Some((name, (self.variable)(name)?)))
        };
        if first(["NO_PROXY", "no_proxy"]).is_some_and(|(_, hosts)| hosts.trim() == "*") {
            return Ok(());
        }
        let mut wanted = vec![["HTTPS_PROXY", "https_proxy"]];
        if has_plain_endpoint {
            wanted.push(["HTTP_PROXY", "http_proxy"]);
        }
        for names in wanted {
            let is_set = |(_, url): &(&str, String)| !url.is_empty();
            let proxy = first(names).filter(is_set);
            let proxy = proxy.or_else(|| first(["ALL_PROXY", "all_proxy"]).filter(is_set));
            let Some((name, url)) = proxy else { continue };
            if !is_proxy(&url) {
                // The URL itself may hold a password.
                return Err(format!(
                    "{name} names no HTTP proxy, such as http://proxy.example.com:8080, and this tool goes through no other; \
                     NO_PROXY='*' goes without one"
                ));
            }
        }
        Ok(())
    }
}

/// Whether a URL, whose scheme may be left out, names an HTTP proxy.
fn is_proxy(url: &str) -> bool {
    let rest = match url.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some(_) => return false,
        None => url,
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let port_is_number = match host.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse::<u16>().is_ok(),
        Some(_) | None => true,
    };
    !host.is_empty()
        && !host.starts_with(':')
        && port_is_number
        && !url.contains(|char: char| char.is_whitespace() || char.is_control())
}

/// Follows a profile to where its credentials come from, as the SDK does.
fn check_credentials_of(selected: &str, profiles: &Profiles) -> Result<(), String> {
    let mut visited = Vec::new();
    let mut next = Some(selected);
    while let Some(name) = next.filter(|name| !visited.contains(name)) {
        let Some(profile) = profiles.get(name) else { return Ok(()) };
        let has = |key: &str| profile.contains_key(key);
        let is_first = visited.is_empty();
        visited.push(name);
        let takes_role = has("role_arn") && !has("web_identity_token_file");
        let has_keys = has("aws_access_key_id") && has("aws_secret_access_key");
        if !is_first && has_keys {
            return Ok(());
        }
        if takes_role && has("mfa_serial") {
            return Err(refusal(selected, name, "asks for a second factor (mfa_serial)"));
        }
        let source = profile.get("source_profile").map(String::as_str);
        next = source.filter(|source| takes_role && *source != name);
        let is_base = next.is_none() && !has("credential_source") && !has("sso_session");
        if is_base && !has("sso_start_url") && has("login_session") {
            return Err(refusal(selected, name, "signs in by `aws login` (login_session)"));
        }
    }
    Ok(())
}

fn refusal(selected: &str, at_fault: &str, what: &str) -> String {
    let whose = if selected == at_fault {
        format!("the profile {}", printable(selected))
    } else {
        format!("the profile {} builds on {}, which", printable(selected), printable(at_fault))
    };
    format!(
        "{whose} {what}, which this tool cannot do; have the AWS CLI do it: \
         eval \"$(aws configure export-credentials --profile {} --format env)\"",
        quoted(selected)
    )
}

/// A name as a shell takes it.
fn quoted(name: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_.@:/+".contains(char);
    if name.chars().all(is_plain) {
        name.to_owned()
    } else {
        format!("'{}'", printable(name).replace('\'', "'\\''"))
    }
}

/// The profiles of the configuration file and of the credentials file, of which the latter counts more.
fn profiles(config: &str, credentials: &str) -> Profiles {
    let mut profiles = Profiles::new();
    read_into(&mut profiles, config, |section| match section.split_once(char::is_whitespace) {
        Some(("profile", name)) => Some(unquoted(name.trim())),
        None if section == DEFAULT => Some(section),
        Some(_) | None => None,
    });
    read_into(&mut profiles, credentials, |section| Some(unquoted(section)));
    profiles
}

fn unquoted(name: &str) -> &str {
    name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name)
}

fn read_into<'t>(
    profiles: &mut Profiles,
    text: &'t str,
    profile_of: impl Fn(&'t str) -> Option<&'t str>,
) {
    let mut current: Option<&str> = None;
    for line in text.lines() {
        if let Some(section) = line.trim_start().strip_prefix('[') {
            let section = section.split(']').next().unwrap_or_default().trim();
            current = profile_of(section);
            if let Some(name) = current {
                profiles.entry(name.to_owned()).or_default();
            }
        } else if let (Some(name), Some((key, value))) = (current, line.split_once('='))
            // A line that is set in belongs to the one before.
            && !line.starts_with([' ', '\t', '#', ';'])
        {
            let profile = profiles.entry(name.to_owned()).or_default();
            profile.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
[default]
region = eu-west-1
[profile mfa]
role_arn = arn:aws:iam::123456789012:role/admin
source_profile = keys
mfa_serial = arn:aws:iam::123456789012:mfa/me
[profile on-top]
role_arn = arn:aws:iam::123456789012:role/other
source_profile = mfa
[profile console]
login_session = arn:aws:iam::123456789012:user/me
[profile \"with blank\"]
role_arn = arn:aws:iam::123456789012:role/other
source_profile = console
[profile keys-with-serial]
aws_access_key_id = AKIAIOSFODNN7EXAMPLE
aws_secret_access_key = x
mfa_serial = arn:aws:iam::123456789012:mfa/me
[profile round]
role_arn = arn:aws:iam::123456789012:role/a
source_profile = round-again
[profile round-again]
role_arn = arn:aws:iam::123456789012:role/a
source_profile = round
[profile sso]
sso_session = work
[sso-session work]
login_session = none
[profile bad-endpoint]
endpoint_url = localhost:5000
s3 =
  mfa_serial = nested
";
    const CREDENTIALS: &str =
        "[keys]\naws_access_key_id=AKIAIOSFODNN7EXAMPLE\naws_secret_access_key=x\n";

    fn checked(variables: &[(&str, &str)]) -> Result<(), String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(set, _)| *set == name);
            found
                .map(|(_, value)| (*value).to_owned())
                .or_else(|| (name == "HOME").then(|| "/home/me".to_owned()))
        };
        let file = |path: &Path| match path.to_str()? {
            "/home/me/.aws/config" => Some(CONFIG.to_owned()),
            "/home/me/.aws/credentials" => Some(CREDENTIALS.to_owned()),
            _ => None,
        };
        Machine { variable: &variable, file: &file }.check()
    }

    #[test]
    fn a_profile_that_is_misspelt_is_named() {
        let why = checked(&[("AWS_PROFILE", "kyes")]).unwrap_err();
        assert!(why.starts_with("AWS_PROFILE names the profile kyes, and there is none"), "{why}");
        assert!(why.contains("/home/me/.aws/config") && why.contains("console, default"), "{why}");
        // Another account's keys beside it make it no better.
        let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
        assert!(checked(&[&[("AWS_PROFILE", "kyes")][..], &keys].concat()).is_err());
        assert_eq!(checked(&[("AWS_PROFILE", "keys")]), Ok(()));
        assert_eq!(checked(&[("AWS_PROFILE", "")]), Ok(()));
        let elsewhere = [("AWS_CONFIG_FILE", "~/none"), ("AWS_SHARED_CREDENTIALS_FILE", "/none")];
        let why = checked(&[&[("AWS_PROFILE", "keys")][..], &elsewhere].concat()).unwrap_err();
        assert!(why.ends_with("/home/me/none and /none have no profile"), "{why}");
    }

    #[test]
    fn what_only_the_aws_cli_can_do_is_said() {
        for (profile, says) in [
            ("mfa", "the profile mfa asks for a second factor (mfa_serial)"),
            ("on-top", "the profile on-top builds on mfa, which asks for a second factor"),
            ("console", "the profile console signs in by `aws login` (login_session)"),
            ("with blank", "the profile with blank builds on console, which signs in"),
        ] {
            let why = checked(&[("AWS_PROFILE", profile)]).unwrap_err();
            assert!(why.starts_with(says), "{why}");
            let name = if profile == "with blank" { "'with blank'" } else { profile };
            let does = format!(
                "eval \"$(aws configure export-credentials --profile {name} --format env)\""
            );
            assert!(why.ends_with(&does), "{why}");
            // Once that is done, there are keys.
            let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
            assert_eq!(checked(&[&[("AWS_PROFILE", profile)][..], &keys].concat()), Ok(()));
        }
        for profile in ["default", "keys", "keys-with-serial", "round", "sso"] {
            assert_eq!(checked(&[("AWS_PROFILE", profile)]), Ok(()), "{profile}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url() {
        for url in
            ["http://localhost:5000", "https://ec2.eu-west-1.amazonaws.com/", "http://[::1]:5000"]
        {
            assert_eq!(checked(&[("AWS_ENDPOINT_URL", url)]), Ok(()), "{url}");
        }
        for url in ["localhost:5000", "127.0.0.1", "", "https://", "http:///x", "ftp://x", "//x"] {
            let why = checked(&[("AWS_ENDPOINT_URL_EC2", url)]).unwrap_err();
            assert!(why.starts_with("AWS_ENDPOINT_URL_EC2 is \""), "{why}");
        }
        let why = checked(&[("AWS_PROFILE", "bad-endpoint")]).unwrap_err();
        assert!(why.contains("endpoint_url in AWS's configuration is \"localhost:5000\""), "{why}");
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named() {
        for url in
            ["http://proxy:8080", "proxy:8080", "https://me:secret@proxy", "http://[::1]:3128/"]
        {
            assert_eq!(checked(&[("HTTPS_PROXY", url)]), Ok(()), "{url}");
        }
        for url in ["socks5://proxy:1080", "http://", "http://proxy:x", "http://me:se cret@proxy"] {
            let why = checked(&[("https_proxy", url)]).unwrap_err();
            assert!(why.starts_with("https_proxy names no HTTP proxy") && !why.contains("cret"));
            assert!(checked(&[("ALL_PROXY", url)]).is_err(), "{url}");
            assert_eq!(checked(&[("https_proxy", url), ("NO_PROXY", "*")]), Ok(()));
            assert_eq!(checked(&[("HTTP_PROXY", url)]), Ok(()), "AWS is spoken to by https");
            let plain = ("AWS_ENDPOINT_URL", "http://localhost:5000");
            assert!(checked(&[("HTTP_PROXY", url), plain]).is_err());
        }
    }
}
