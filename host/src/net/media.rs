//! Decides which requests are gRPC: POST over HTTP/2 with one of two content types. Says in words
//! why another one is not. Sees heads only, and knows no service.

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};

/// The content types that are served, with or without parameters. `+proto` states what the first
/// one implies.
const SERVED: [&str; 2] = ["application/grpc", "application/grpc+proto"];

/// Most bytes of a client's own text in an error.
const QUOTED_BYTES_MAX: usize = 80;

/// Returns why a request is not gRPC, in words for its sender. `None` when it is gRPC.
///
/// Such a request must not be run. Its client could not read the status, which travels in HTTP/2's
/// trailers, nor the reply, which it expects in another encoding.
pub fn refusal(method: &Method, version: Version, headers: &HeaderMap) -> Option<(StatusCode, String)> {
    if is_grpc(method, version, headers) {
        return None;
    }
    let types: Vec<&[u8]> = headers.get_all(header::CONTENT_TYPE).iter().map(|value| value.as_bytes()).collect();
    if types.is_empty() || !types.iter().all(|content_type| is_served(content_type)) {
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, unsupported(&types)));
    }
    if version != Version::HTTP_2 {
        let text = format!("gRPC is served over HTTP/2, and this request came over {version:?}; it was not run.\n");
        return Some((StatusCode::HTTP_VERSION_NOT_SUPPORTED, text));
    }
    let text = format!("gRPC calls are POST requests, and this one is a {method}; it was not run.\n");
    Some((StatusCode::METHOD_NOT_ALLOWED, text))
}

/// Returns whether a request is gRPC. It allocates nothing, since every call passes here.
pub fn is_grpc(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let is_one = |content_type: &HeaderValue| is_served(content_type.as_bytes());
    types.next().is_some_and(is_one) && types.all(is_one) && version == Version::HTTP_2 && method == Method::POST
}

fn is_served(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    SERVED.iter().any(|served| essence.eq_ignore_ascii_case(served.as_bytes()))
}

fn unsupported(types: &[&[u8]]) -> String {
    let quoted = |found: &&[u8]| format!("\"{}\"", found[..found.len().min(QUOTED_BYTES_MAX)].escape_ascii());
    let found = match types {
        [] => "none".to_owned(),
        _ => types.iter().take(2).map(quoted).collect::<Vec<_>>().join(" and "),
    };
    format!(
        "This port speaks gRPC: a request's content-type is {}, and that of this one is {found}; it was not run. Try \
         `grpcurl -plaintext <address> list`; plain HTTP is served on --http_addr.\n",
        SERVED.join(" or "),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn code(method: Method, version: Version, types: &[&str]) -> u16 {
        let mut headers = HeaderMap::new();
        for content_type in types {
            headers.append(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        refusal(&method, version, &headers).map_or(200, |(code, text)| {
            assert!(text.contains("it was not run"), "{text}");
            code.as_u16()
        })
    }

    #[test]
    fn only_two_types_are_grpc() {
        let served = [
            "application/grpc",
            "application/grpc+proto",
            "Application/GRPC",
            "application/grpc;charset=utf-8",
            "application/grpc+proto ; a=b; c=d",
            "application/grpc;",
        ];
        for content_type in served {
            assert_eq!(code(Method::POST, Version::HTTP_2, &[content_type]), 200, "{content_type}");
            assert_eq!(code(Method::POST, Version::HTTP_11, &[content_type]), 505, "{content_type}");
            assert_eq!(code(Method::POST, Version::HTTP_10, &[content_type]), 505, "{content_type}");
            assert_eq!(code(Method::GET, Version::HTTP_2, &[content_type]), 405, "{content_type}");
        }
        let refused = [
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
            "application/grpc+json",
            "application/grpc+thrift",
            "application/grpc+",
            "application/grpcX",
            "application/grpc, application/grpc",
            "application/grp",
            "application/proto",
            "text/html",
            "",
            ";",
        ];
        for content_type in refused {
            assert_eq!(code(Method::POST, Version::HTTP_2, &[content_type]), 415, "{content_type}");
            assert_eq!(code(Method::POST, Version::HTTP_11, &[content_type]), 415, "{content_type}");
        }
        assert_eq!(code(Method::POST, Version::HTTP_2, &[]), 415);
        assert_eq!(code(Method::POST, Version::HTTP_2, &["application/grpc", "application/grpc-web"]), 415);
    }

    #[test]
    fn a_clients_words_are_quoted_with_care() {
        let text = unsupported(&[&b"a\"\xff"[..], &[b'x'; 5_000]]);
        assert!(text.contains(r#""a\"\xff" and "xxx"#), "{text}");
        assert!(text.len() < 500, "{text}");
    }
}
