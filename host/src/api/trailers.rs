//! Keeps a status within the size that stock clients accept. Every response of the client port
//! passes this one place on its way out. It counts the bytes that are sent, and decides no status.
//!
//! Clients in C++, Python and Java accept 8 KiB of trailers. They turn more into RESOURCE_EXHAUSTED
//! or INTERNAL. The node's own code, and whether a command was applied, would be lost.

use axum::body::Body;
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;

/// Most bytes of trailers that stock clients accept, counted as HTTP/2 counts.
const STOCK_CLIENT_BYTES_MAX: usize = 8 << 10;

/// Bytes that HTTP/2 adds to those of each name and value.
const FIELD_OVERHEAD_BYTES: usize = 32;

/// Room for fields that are added later: the HTTP library's `:status` and `date` (107 bytes), the
/// host's own [`CUT`] (59), and a proxy's fields.
const ROOM_BYTES: usize = 512;

/// Most bytes of trailers that the host sends.
const TRAILERS_BYTES_MAX: usize = STOCK_CLIENT_BYTES_MAX - ROOM_BYTES;

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
const DETAILS: &str = "grpc-status-details-bin";

/// Names the parts of a status that did not fit: `details`, `message` (the text was shortened), or
/// `details,message`.
pub const CUT: &str = "lockstep-cut";

/// Makes the status of a response fit, whether it comes at once or after a stream of messages.
pub(super) fn fitted(mut response: http::Response<Body>) -> http::Response<Body> {
    if response.headers().contains_key(STATUS) {
        fit(response.headers_mut());
        return response;
    }
    response.map(|body| {
        Body::new(body.map_frame(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                fit(trailers);
            }
            frame
        }))
    })
}

/// Removes the details first, since cut details would not decode. Then shortens the text at the
/// end, at a character.
fn fit(trailers: &mut HeaderMap) {
    if bytes_sent(trailers) <= TRAILERS_BYTES_MAX {
        return;
    }
    let details = trailers.remove(DETAILS);
    let over = bytes_sent(trailers).saturating_sub(TRAILERS_BYTES_MAX);
    let message = trailers.get(MESSAGE).filter(|_| over > 0).map(|message| cut(message, over));
    let what = match (&details, &message) {
        (Some(_), None) => "details",
        (Some(_), Some(_)) => "details,message",
        (None, Some(_)) => "message",
        // Other metadata is the host's own. Its limits are far below these.
        (None, None) => return,
    };
    tracing::debug!(what, "a status was larger than what stock clients take");
    if let Some(message) = message {
        trailers.insert(MESSAGE, message);
    }
    trailers.insert(CUT, HeaderValue::from_static(what));
}

fn bytes_sent(trailers: &HeaderMap) -> usize {
    trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD_BYTES).sum()
}

/// Returns the message at least `over` bytes shorter (or empty), cut at a whole character. It
/// counts bytes as they are sent: most of them as `%` and two digits.
fn cut(message: &HeaderValue, over: usize) -> HeaderValue {
    let sent = message.as_bytes();
    let bytes_max = sent.len().saturating_sub(over);
    let (mut at, mut end) = (0, 0);
    while at <= bytes_max && at < sent.len() {
        let escaped = sent[at..].strip_prefix(b"%").and_then(|rest| rest.first_chunk::<2>());
        // Bytes of UTF-8 that are not the first of their character begin with the bits 10.
        let begins_character =
            escaped.is_none_or(|digits| !matches!(digits[0].to_ascii_lowercase(), b'8' | b'9' | b'a' | b'b'));
        if begins_character {
            end = at;
        }
        at += if escaped.is_some() { 3 } else { 1 };
    }
    HeaderValue::from_bytes(&sent[..end]).expect("a part of a header's value is one")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tonic::{Code, Status};

    /// Returns the fitted headers of a status, and the status that tonic reads from them.
    fn sent(message: &str, details: usize, leader: usize) -> (HeaderMap, Status) {
        let mut status = Status::with_details(Code::NotFound, message, vec![7; details].into());
        status.metadata_mut().insert("lockstep-leader", "l".repeat(leader).parse().unwrap());
        status.metadata_mut().insert("lockstep-outcome", "applied".parse().unwrap());
        let mut headers = status.into_http::<Body>().into_parts().0.headers;
        fit(&mut headers);
        let status = Status::from_header_map(&headers).unwrap();
        (headers, status)
    }

    #[test]
    fn what_fits_is_as_it_was() {
        let (headers, status) = sent("no such key", 4_096, 253);
        assert_eq!((status.message(), status.details().len()), ("no such key", 4_096));
        assert!(!headers.contains_key(CUT));
    }

    #[test]
    fn details_go_before_the_text() {
        let text = "ü".repeat(510);
        let (headers, status) = sent(&text, 3_500, 253);
        assert_eq!((status.code(), status.message(), status.details()), (Code::NotFound, &text[..], &[][..]));
        assert_eq!(headers[CUT], "details");
        assert_eq!(headers["lockstep-outcome"], "applied");
    }

    #[test]
    fn the_text_is_cut_at_a_character() {
        for (character, details) in
            [("a", 0), ("ü", 4_000), ("€", 0), ("\u{1f600}", 9), ("%", 0), ("a€", 0), (" ü%b", 1)]
        {
            for length in 9_000..9_012 {
                let text = character.repeat(length / character.len());
                let (headers, status) = sent(&text, details, 253);
                let kept = status.message();
                assert!(text.starts_with(kept) && kept.len() < text.len(), "{character:?}: {kept:?}");
                let room = TRAILERS_BYTES_MAX + CUT.len() + "details,message".len() + FIELD_OVERHEAD_BYTES;
                assert!(bytes_sent(&headers) <= room);
                assert!(bytes_sent(&headers) > TRAILERS_BYTES_MAX - 12, "no more than a character of room is wasted");
                assert_eq!(headers[CUT], if details > 0 { "details,message" } else { "message" });
            }
        }
    }

    #[tokio::test]
    async fn the_end_of_a_stream_is_fitted_too() {
        let status = Status::with_details(Code::Internal, "ü".repeat(510), vec![7; 4_000].into());
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers).unwrap();
        let body =
            http_body_util::Full::new(bytes::Bytes::from_static(b"one")).with_trailers(async { Some(Ok(trailers)) });
        let collected = fitted(http::Response::new(Body::new(body))).into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()[CUT], "details");
        assert_eq!(collected.to_bytes(), "one");
    }
}
