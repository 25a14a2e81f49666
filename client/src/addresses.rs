//! Reads the list of node addresses that a user gives. Resolves no name and connects to nothing.

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

/// Why a list of addresses cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The list is empty.
    #[error("no address is given; name at least one node, such as `127.0.0.1:20051`")]
    Empty,
    /// One address has no port, or is no address at all.
    #[error("\"{0}\" is no address of a node; write `host:port`, such as `127.0.0.1:20051`")]
    Malformed(String),
    /// The address asks for TLS, and the client was given none.
    #[error("\"{0}\" asks for TLS; give the client the authorities that it is to trust")]
    WithoutTls(String),
    /// The address asks for no TLS, and the client was given some.
    #[error(
        "\"{0}\" asks for a connection without TLS, and the client is to use TLS; write https://, or host:port alone"
    )]
    WithTls(String),
    /// The client is to call one node, and the list names this many.
    #[error("{0} addresses are given, and one node is to be called; give one of them")]
    Several(usize),
}

/// Splits `list` at its commas. Each part is `host:port`; a leading `http://` or
/// `https://`, and a leading `ipv4:` or `ipv6:` before the whole list, are accepted and dropped. An
/// address that stands twice is kept once. `is_tls` says how the client speaks; an address that
/// asks for something else is refused.
pub(crate) fn parse(list: &str, is_tls: bool) -> Result<Vec<String>, AddressError> {
    let list = list.trim();
    let list = list.strip_prefix("ipv4:").or_else(|| list.strip_prefix("ipv6:")).unwrap_or(list);
    let mut addresses = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let address = one(part).ok_or_else(|| AddressError::Malformed(part.to_owned()))?;
        if part.starts_with(HTTPS) && !is_tls {
            return Err(AddressError::WithoutTls(part.to_owned()));
        }
        if part.starts_with(HTTP) && is_tls {
            return Err(AddressError::WithTls(part.to_owned()));
        }
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(AddressError::Empty) } else { Ok(addresses) }
}

/// One address as `host:port`, if it is one.
pub(crate) fn one(text: &str) -> Option<String> {
    let text = text.strip_prefix(HTTP).or_else(|| text.strip_prefix(HTTPS)).unwrap_or(text).trim_end_matches('/');
    let authority: http::uri::Authority = text.parse().ok()?;
    let port = authority.port_u16()?;
    let has_user = text.contains('@');
    (!authority.host().is_empty() && port != 0 && !has_user).then(|| authority.to_string())
}

/// Whether only this machine can be behind the address.
pub(crate) fn is_this_machine(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<Vec<String>, AddressError> {
        super::parse(list, false)
    }

    #[test]
    fn lists_are_written_as_other_clients_write_them() {
        let three = Ok(vec!["a:1".to_owned(), "b:2".to_owned(), "127.0.0.1:3".to_owned()]);
        assert_eq!(parse("a:1,b:2,127.0.0.1:3"), three);
        assert_eq!(parse(" a:1, b:2 ,http://127.0.0.1:3/, a:1,"), three);
        assert_eq!(parse("ipv4:a:1,b:2,127.0.0.1:3"), three);
        assert_eq!(parse("[::1]:20051"), Ok(vec!["[::1]:20051".to_owned()]));
    }

    #[test]
    fn an_address_that_asks_for_tls_needs_it() {
        assert_eq!(super::parse("https://a:1,b:2", true), Ok(vec!["a:1".to_owned(), "b:2".to_owned()]));
        assert_eq!(parse("b:2,https://a:1"), Err(AddressError::WithoutTls("https://a:1".to_owned())));
        assert_eq!(super::parse("http://a:1", true), Err(AddressError::WithTls("http://a:1".to_owned())));
    }

    #[test]
    fn this_machine_is_known() {
        for here in ["localhost:1", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
            assert!(is_this_machine(here), "{here}");
        }
        for elsewhere in ["db1.example:1", "10.0.0.1:1", "[fe80::1]:1", "localhost.example:1"] {
            assert!(!is_this_machine(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        assert_eq!(parse(" , "), Err(AddressError::Empty));
        for wrong in ["localhost", "a:b", "a:0", "a:70000", ":1", "ftp://a:1", "a b:1", "user@a:1"] {
            assert_eq!(parse(&format!("a:1,{wrong}")), Err(AddressError::Malformed(wrong.to_owned())), "{wrong}");
        }
    }
}
