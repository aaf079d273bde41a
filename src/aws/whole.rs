//! Refuses an answer that was cut short: the SDK's reader of XML does not ask that what was opened is closed, and a list of
//! which the end is missing would be taken for whole, tags and associations lost.

use aws_sdk_ec2::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ec2::error::BoxError;

/// Lets an answer of success through only where its XML ends with the end of its root.
#[derive(Debug)]
pub struct WholeAnswers;

/// The answer's XML stops before its root is closed.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut short")]
pub struct CutShort;

impl Intercept for WholeAnswers {
    fn name(&self) -> &'static str {
        "WholeAnswers"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // What failed anyway, or was not read into memory, is no list that could be taken for whole.
        match (context.output_or_error(), context.response().body().bytes()) {
            (Ok(_), Some(body)) if !is_whole(body) => Err(CutShort.into()),
            (Ok(_) | Err(_), _) => Ok(()),
        }
    }
}

/// Whether a document ends as it began: `<Name … >` … `</Name>`, or `<Name … />`. An empty body is the reader's to judge.
fn is_whole(body: &[u8]) -> bool {
    let body = body.trim_ascii();
    let Some(root) = root(body) else { return body.is_empty() };
    let Some(end) = root.strip_suffix(b">").map(<[u8]>::trim_ascii_end) else { return false };
    let ends_a_name = |byte: &u8| b"> /\r\n\t".contains(byte);
    let name = root[1..].split(ends_a_name).next().unwrap_or_default();
    let is_closed = end.strip_suffix(name).is_some_and(|before| before.ends_with(b"</"));
    let is_empty = end.ends_with(b"/") && !end[1..].contains(&b'<');
    is_closed || is_empty
}

/// A document from its first element on, behind the declaration and comments.
fn root(document: &[u8]) -> Option<&[u8]> {
    let is_root = |two: &[u8]| two[0] == b'<' && !b"?!".contains(&two[1]);
    document.windows(2).position(is_root).map(|begin| &document[begin..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_whole_when_its_root_is_closed() {
        for (body, whole) in [
            ("<?xml version=\"1.0\"?>\n<A xmlns=\"x\"><b>1</b></A>\n", true),
            ("<A><A>inner</A></A>", true),
            ("<A></A >", true),
            ("<!-- by a proxy --><A><b/></A>", true),
            ("", true),
            ("  \n", true),
            ("<?xml version=\"1.0\"?><A xmlns=\"x\"/>", true),
            ("<A><b/>", false),
            ("<A><b>1</b>", false),
            ("<A><b>1</b></A", false),
            ("<A><b>1</b></XA>", false),
            ("<A><b>", false),
            ("<A", false),
            ("no XML", false),
        ] {
            assert_eq!(is_whole(body.as_bytes()), whole, "{body}");
        }
    }

    #[test]
    fn no_beginning_of_a_document_is_whole() {
        let body =
            b"<?xml version=\"1.0\"?><R><set><item><key>a</key><value>b</value></item></set></R>";
        assert!(is_whole(body));
        for end in 1..body.len() {
            assert!(!is_whole(&body[..end]), "{}", String::from_utf8_lossy(&body[..end]));
        }
    }
}
