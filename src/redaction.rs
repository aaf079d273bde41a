//! What may be written of texts that others wrote: no credentials, no signed request, and nothing that ends a line.
//!
//! AWS's services answer a bad signature with the request that they were sent, session token included, each in words and
//! under a code of its own. Proxies and libraries quote requests too. So every text from outside passes here before it
//! becomes a part of an error, a log line, a dead letter or an event.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::{PoisonError, RwLock};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stands where something was taken out.
pub const REDACTED: &str = "[redacted]";
/// What stands where the rest of a text was taken out.
const REQUEST_LEFT_OUT: &str = " [the signed request is left out]";
/// Behind this AWS writes which right is missing, in a form that only `sts decode-authorization-message` reads.
pub const ENCODED_DENIAL: &str = "Encoded authorization failure message: ";

/// From these words on a text quotes a signed request.
const QUOTES: [&str; 6] = [
    "the canonical string",
    "canonical request",
    "canonicalrequest",
    "string-to-sign",
    "string to sign",
    "stringtosign",
];
/// Names of headers, parameters and fields that hold credentials: the longer one of two that begin alike stands first.
const SECRET_NAMES: [&str; 18] = [
    "x-amz-security-token",
    "x-amz-credential",
    "x-amz-signature",
    "x-aws-ec2-metadata-token",
    "proxy-authorization",
    "authorization",
    "aws_secret_access_key",
    "aws_access_key_id",
    "aws_session_token",
    "secret_access_key",
    "secretaccesskey",
    "session_token",
    "sessiontoken",
    "security-token",
    "accesskeyid",
    "signature",
    "credential",
    "set-cookie",
];
/// How ids of access keys begin: a person's, a session's, and rarer ones.
const KEY_IDS: [&str; 4] = ["AKIA", "ASIA", "ABIA", "ACCA"];
const SHORTEST_KEY_ID: usize = 16;
/// How session tokens of STS begin.
const TOKENS: [&str; 4] = ["FwoGZXIvYXdz", "IQoJb3JpZ2lu", "AQoDYXdz", "AQoEXAMPLE"];
/// No name, path or id is as long and as mixed as a session token.
const SHORTEST_BLOB: usize = 100;
/// Shorter ones would be found in ordinary words.
const SHORTEST_SECRET: usize = 16;
/// Credentials are renewed while a process lives; the old ones are worthless by then.
const SECRETS_KEPT: usize = 32;
/// What a query holds only as an escape (RFC 3986).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The credentials that this process has used. They are taken out of whatever is written, in any wording.
static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Remembers a credential of this process, so that no text ever shows it.
pub fn keep_secret(secret: &str) {
    let is_known = |secrets: &[String]| secrets.iter().any(|known| known == secret);
    if secret.len() < SHORTEST_SECRET
        || is_known(&SECRETS.read().unwrap_or_else(PoisonError::into_inner))
    {
        return;
    }
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    if secrets.len() + 2 > SECRETS_KEPT {
        secrets.drain(..2);
    }
    secrets.push(secret.to_owned());
    secrets.push(utf8_percent_encode(secret, RESERVED).to_string());
}

/// A text of others on one line and without credentials.
#[must_use]
pub fn clean(text: &str) -> String {
    one_line(&redact(text)).into_owned()
}

/// A text with what would end or forge a line, or confuse a terminal, written as an escape.
#[must_use]
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(breaks_a_line) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if breaks_a_line(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    Cow::Owned(line)
}

/// Control characters, Unicode's line ends, and what turns the direction of writing.
fn breaks_a_line(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A line of JSON with each of its texts redacted. JSON escapes line ends itself, but neither Unicode's nor the controls
/// behind ASCII.
#[must_use]
pub fn clean_json(line: &str) -> String {
    let mut cleaned = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(begin) = rest.find('"') {
        cleaned.push_str(&rest[..begin]);
        let literal = literal(&rest[begin..]);
        rest = &rest[begin + literal.len()..];
        match serde_json::from_str::<String>(literal) {
            Ok(text) => match redact(&text) {
                Cow::Borrowed(_) => push_escaped(&mut cleaned, literal),
                Cow::Owned(text) => {
                    push_escaped(&mut cleaned, &serde_json::Value::String(text).to_string());
                }
            },
            // Not JSON after all.
            Err(_) => cleaned.push_str(&clean(literal)),
        }
    }
    cleaned.push_str(&one_line(rest));
    cleaned
}

/// A text of JSON from its first quotation mark to its last.
fn literal(text: &str) -> &str {
    let mut is_escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return &text[..=index],
            _ => {}
        }
    }
    text
}

fn push_escaped(json: &mut String, literal: &str) {
    for c in literal.chars() {
        if breaks_a_line(c) {
            // A String takes whatever is written to it.
            let _ = write!(json, "\\u{:04x}", u32::from(c));
        } else {
            json.push(c);
        }
    }
}

/// A text without credentials and without a signed request; the same text, where it holds neither.
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut redacted = without_known_secrets(text);
    // Bytes stay where they are.
    let lower = redacted.to_ascii_lowercase();
    let end = QUOTES.iter().filter_map(|words| lower.find(words)).min();
    redacted = without_patterns(&redacted[..end.unwrap_or(redacted.len())]);
    if end.is_some() {
        redacted.truncate(redacted.trim_end().len());
        redacted.push_str(REQUEST_LEFT_OUT);
    }
    if redacted == text { Cow::Borrowed(text) } else { Cow::Owned(redacted) }
}

fn without_known_secrets(text: &str) -> String {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    let mut redacted = text.to_owned();
    for secret in secrets.iter().filter(|secret| text.contains(secret.as_str())) {
        redacted = redacted.replace(secret.as_str(), REDACTED);
    }
    redacted
}

fn without_patterns(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let is_in_a_word = text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        let rest = &text[at..];
        let found = if is_in_a_word { userinfo_at(rest) } else { secret_at(rest) };
        let (kept, taken) = match found {
            Some(Found { kept, taken }) => (kept, taken),
            None => (c.len_utf8(), 0),
        };
        redacted.push_str(&text[at..at + kept]);
        if taken > 0 {
            redacted.push_str(REDACTED);
        }
        at += kept + taken;
    }
    redacted
}

/// What a text begins with: so many bytes that stay, and so many behind them that are taken out.
struct Found {
    kept: usize,
    taken: usize,
}

fn secret_at(text: &str) -> Option<Found> {
    let starts_with = |word: &str| {
        text.get(..word.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(word))
    };
    if starts_with(ENCODED_DENIAL) {
        let kept = ENCODED_DENIAL.len() + run(&text[ENCODED_DENIAL.len()..]);
        return Some(Found { kept, taken: 0 });
    }
    if starts_with("AWS4-HMAC") || starts_with("AWS4-ECDSA") {
        return Some(Found { kept: 0, taken: until(text, ENDS_A_HEADER) });
    }
    if let Some(name) = SECRET_NAMES.iter().find(|name| starts_with(name))
        && let Some(separator) = separator(&text[name.len()..])
    {
        let kept = name.len() + separator;
        let ends = if name.ends_with("authorization") { ENDS_A_HEADER } else { ENDS_A_VALUE };
        return Some(Found { kept, taken: until(&text[kept..], ends) });
    }
    let taken = run(text);
    let is_secret = is_key_id(text) || is_token(&text[..taken]);
    is_secret.then_some(Found { kept: 0, taken })
}

/// A user's name and password, where a text begins behind the scheme of a URL that holds them.
fn userinfo_at(text: &str) -> Option<Found> {
    let rest = text.strip_prefix("://")?;
    let authority = &rest[..until(rest, &['/', ' ', '"', '\''])];
    authority.rfind('@').map(|taken| Found { kept: "://".len(), taken })
}

const ENDS_A_HEADER: &[char] = &['\n', '\r', '"', '\'', '<', '\\'];
const ENDS_A_VALUE: &[char] =
    &['\n', '\r', '"', '\'', '<', '\\', ' ', '\t', '&', ',', ';', ')', ']', '}'];

/// The bytes before the first of these characters.
fn until(text: &str, ends: &[char]) -> usize {
    text.find(ends).unwrap_or(text.len())
}

/// The bytes between a name and its value, where what follows the name says that it has one.
fn separator(text: &str) -> Option<usize> {
    let wraps = |c: char| matches!(c, ' ' | '"' | '\'' | '\\' | '[' | '(');
    let rest = text.trim_start_matches(wraps);
    let rest = rest.strip_prefix("header").map_or(rest, |rest| rest.trim_start_matches(wraps));
    let value = ["=>", ":", "=", ">", "%3A", "%3D", "%3a", "%3d"]
        .iter()
        .find_map(|separator| rest.strip_prefix(separator))?;
    Some(text.len() - value.trim_start_matches(wraps).len())
}

/// The bytes that a text in base64, of either alphabet and percent-encoded or not, can go on for.
fn run(text: &str) -> usize {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || "+/=_-%".contains(c));
    text.find(ends).unwrap_or(text.len())
}

fn is_key_id(text: &str) -> bool {
    let ends = |c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit());
    let length = text.find(ends).unwrap_or(text.len());
    length >= SHORTEST_KEY_ID && KEY_IDS.iter().any(|beginning| text.starts_with(beginning))
}

/// A session token by its beginning, or by what tells a random text from a long path: every other character is of another
/// kind than the one before.
fn is_token(run: &str) -> bool {
    if TOKENS.iter().any(|beginning| run.starts_with(beginning)) {
        return true;
    }
    let kind = |c: char| match c {
        'a'..='z' => Some(0),
        'A'..='Z' => Some(1),
        '0'..='9' => Some(2),
        // Between the words of a path.
        _ => None,
    };
    let kinds: Vec<u8> = run.chars().filter_map(kind).collect();
    let changes = kinds.windows(2).filter(|two| two[0] != two[1]).count();
    let is_mixed = (0..3).all(|kind| kinds.contains(&kind)) && changes * 2 >= kinds.len();
    run.len() >= SHORTEST_BLOB && is_mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVzLWVhc3QtMSJHMEUCIQDx+abc/def=";

    #[test]
    fn no_wording_of_a_quoted_request_is_kept() {
        for text in [
            format!("No match.\n\nThe Canonical String for this request should have been\n'POST\nhost:x\n{TOKEN}'"),
            format!("no. Canonical request: POST / {TOKEN}"),
            format!("X-Amz-Security-Token: {TOKEN}"),
            format!("{{\"x-amz-security-token\":[\"{TOKEN}\"]}}"),
            format!("<X-Amz-Security-Token>{TOKEN}</X-Amz-Security-Token>"),
            format!("POST /?X-Amz-Security-Token={TOKEN}&a=b"),
            format!("the token {TOKEN} is not valid"),
            "'AKIAIOSFODNN7EXAMPLE/x' not a valid key=value pair in Authorization header: 'AWS4-HMAC-SHA256 \
             Credential=ASIAIOSFODNN7EXAMPLE/20261102/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0a1b2c'"
                .to_owned(),
            "proxy-authorization: Basic dXNlcjpwYXNzd29yZA==".to_owned(),
            "http://user:password@proxy.internal:3128 does not answer".to_owned(),
            "SecretAccessKey = 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY'".to_owned(),
        ] {
            let shown = clean(&text);
            for secret in
                ["EXAMPLE", "dXNlcjpw", "password", "0a1b2c", "wJalrX", "IQoJb3", "host:x"]
            {
                assert!(!shown.contains(secret), "{text}\n{shown}");
            }
        }
    }

    #[test]
    fn a_credential_of_this_process_is_known_in_any_wording() {
        keep_secret("a secret/nobody+knows");
        for text in ["<a secret/nobody+knows>", "?t=a%20secret%2Fnobody%2Bknows&x"] {
            let shown = clean(text);
            assert!(shown.contains(REDACTED) && !shown.contains("nobody"), "{shown}");
        }
        keep_secret("short");
        assert_eq!(clean("a short text"), "a short text");
    }

    #[test]
    fn what_holds_no_secret_stays_as_it_is() {
        let long = format!(
            "arn:aws:iam::123456789012:instance-profile/{}web",
            "Team-7/Service/".repeat(30)
        );
        let ids = ["8476a536-e9f4-11e8-9739-000000000001"; 40].join(",");
        let encoded = format!(
            "You are not authorized to perform this operation. {ENCODED_DENIAL}{}",
            "aB3-_xY9".repeat(300)
        );
        for text in [
            long.as_str(),
            ids.as_str(),
            encoded.as_str(),
            "The security token included in the request is invalid",
            "AWS was not able to validate the provided access credentials",
            "Signature expired: 20261102T091400Z is now earlier than 20261102T091500Z",
            "an instance profile's id is AIPACKCEVSQ6C2EXAMPLE, a role's AROACKCEVSQ6C2EXAMPLE",
            "https://sqs.us-east-1.amazonaws.com/123456789012/events did not answer",
            "größer als \u{1f980}",
        ] {
            assert!(matches!(redact(text), Cow::Borrowed(_)), "{}", clean(text));
        }
    }

    #[test]
    fn nothing_ends_a_line() {
        assert_eq!(
            clean("a\r\nERROR b\u{1b}[2J\u{85}\u{2028}\u{202e}c\t"),
            "a\\r\\nERROR b\\u{1b}[2J\\u{85}\\u{2028}\\u{202e}c\\t"
        );
        assert_eq!(clean("é stays"), "é stays");
    }

    #[test]
    fn json_stays_json_and_loses_its_secrets() {
        let line = r#"{"z":"a \"b\" \n","a":1,"t":"X-Amz-Security-Token: abc\nnext","#.to_owned()
            + "\"u\":\"\u{2028}\u{7f}\"}";
        let cleaned = clean_json(&line);
        assert_eq!(
            cleaned,
            r#"{"z":"a \"b\" \n","a":1,"t":"X-Amz-Security-Token: [redacted]\nnext","u":"\u2028\u007f"}"#
        );
        assert!(serde_json::from_str::<serde_json::Value>(&cleaned).is_ok());
        assert_eq!(clean_json("no JSON \"at all\n"), "no JSON \"at all\\n");
    }
}
