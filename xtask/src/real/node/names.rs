//! A name server for pods: it answers for Services by what the API says of them at that moment, and knows no other names.
//!
//! It takes the place of CoreDNS, whose image no registry is asked for here. Questions come over UDP, one name each.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use super::super::api::Api;

/// The domain of the cluster.
pub const DOMAIN: &str = "cluster.local";
/// For how many seconds an answer may be kept.
const SECONDS: u32 = 5;
/// The longest question, which comes in one datagram.
const LONGEST: usize = 512;

/// How the name server is started.
#[derive(Args)]
pub struct Names {
    /// The kubeconfig, as `up` writes it.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// There is no such name.
    Nothing,
    /// The name is there, without an address.
    Name,
    Address(Ipv4Addr),
    /// The API did not answer.
    Unknown,
}

/// A question: where it ends in its datagram, the name, and what is asked of it.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    end: usize,
    name: String,
    wanted: u16,
}

impl Names {
    /// Answers until it is stopped.
    pub fn serve(&self) -> Result<()> {
        let api = Api::of(&self.kubeconfig)?;
        let socket = UdpSocket::bind(self.listen).with_context(|| format!("failed to listen at {}", self.listen))?;
        let mut buffer = [0; LONGEST];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).context("failed to wait for a question")?;
            let datagram = &buffer[..length];
            let Some(question) = read(datagram) else { continue };
            let known = look_up(&question.name, |path| api.answers(path));
            eprintln!("{from} {} {}: {known:?}", question.wanted, question.name.escape_debug());
            // Whoever asked and has gone does not miss the answer.
            let _ = socket.send_to(&answer(datagram, &question, &known), from);
        }
    }
}

/// Reads a question that stands alone; anything else is left unanswered.
fn read(datagram: &[u8]) -> Option<Question> {
    let number = |at: usize| Some(u16::from_be_bytes([*datagram.get(at)?, *datagram.get(at + 1)?]));
    let is_answer = datagram.get(2)? & 0x80 != 0;
    if is_answer || number(4)? != 1 {
        return None;
    }
    let mut at = 12;
    let mut labels: Vec<String> = Vec::new();
    loop {
        let length = usize::from(*datagram.get(at)?);
        // Longer ones are pointers, which no question has.
        if length > 63 {
            return None;
        }
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(datagram.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    Some(Question {
        end: at + 4,
        name: labels.join("."),
        wanted: number(at).filter(|_| number(at + 2).is_some())?,
    })
}

/// Asks the API for the Service of a name.
fn look_up(name: &str, ask: impl Fn(&str) -> Result<String, String>) -> Known {
    let Some((service, namespace)) = service(name) else {
        return Known::Nothing;
    };
    let path = format!("/api/v1/namespaces/{namespace}/services?fieldSelector=metadata.name%3D{service}");
    let Ok(text) = ask(&path) else { return Known::Unknown };
    let list: Value = serde_json::from_str(&text).unwrap_or_default();
    match list.pointer("/items/0/spec/clusterIP").and_then(Value::as_str) {
        Some(address) => address.parse().map_or(Known::Name, Known::Address),
        None if list.pointer("/items/0").is_some() => Known::Name,
        None => Known::Nothing,
    }
}

/// Reads Service and namespace from a full name.
fn service(name: &str) -> Option<(&str, &str)> {
    let short = name.strip_suffix(DOMAIN)?.strip_suffix(".svc.")?;
    let (service, namespace) = short.split_once('.')?;
    let plain = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    (plain(service) && plain(namespace)).then_some((service, namespace))
}

/// Writes the answer to a question.
fn answer(datagram: &[u8], question: &Question, known: &Known) -> Vec<u8> {
    const ADDRESS: u16 = 1;
    let code: u8 = match known {
        Known::Nothing => 3,
        Known::Unknown => 2,
        Known::Name | Known::Address(_) => 0,
    };
    let found = match known {
        Known::Address(address) if question.wanted == ADDRESS => Some(address),
        _ => None,
    };
    let mut answer = datagram[..2].to_vec();
    // An answer with authority; whether recursion was asked for is said again.
    answer.extend([
        0x84 | datagram[2] & 1,
        0x80 | code,
        0,
        1,
        0,
        u8::from(found.is_some()),
        0,
        0,
        0,
        0,
    ]);
    answer.extend(&datagram[12..question.end]);
    if let Some(address) = found {
        // The name stands at 12; class Internet.
        answer.extend([0xc0, 12, 0, 1, 0, 1]);
        answer.extend(SECONDS.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    answer
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(name: &str, wanted: u8) -> Vec<u8> {
        let mut datagram = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            datagram.push(u8::try_from(label.len()).unwrap());
            datagram.extend(label.bytes());
        }
        datagram.extend([0, 0, wanted, 0, 1]);
        datagram
    }

    #[test]
    fn a_question_is_read_and_anything_else_is_not() {
        let datagram = asked("Operator.foreman.svc.cluster.local", 1);
        let question = read(&datagram).unwrap();
        assert_eq!(question.name, "operator.foreman.svc.cluster.local");
        assert_eq!((question.wanted, question.end), (1, datagram.len()));
        for end in 0..datagram.len() {
            assert_eq!(read(&datagram[..end]), None, "{end}");
        }
        let mut pointer = datagram.clone();
        pointer[12] = 0xc0;
        assert_eq!(read(&pointer), None);
        let mut reply = datagram;
        reply[2] |= 0x80;
        assert_eq!(read(&reply), None);
    }

    #[test]
    fn only_names_of_services_become_questions_to_the_api() {
        assert_eq!(service("api.default.svc.cluster.local"), Some(("api", "default")));
        for name in [
            "api.default.svc",
            "example.com",
            "a/b.default.svc.cluster.local",
            "default.svc.cluster.local",
            "pod.api.default.svc.cluster.local",
            ".default.svc.cluster.local",
        ] {
            assert_eq!(service(name), None, "{name}");
        }
    }

    #[test]
    fn a_service_without_an_address_is_a_name_and_a_silent_api_is_no_proof() {
        let name = "api.default.svc.cluster.local";
        let said = |text: &str| look_up(name, |_| Ok(text.to_owned()));
        let address = Known::Address(Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(said(r#"{"items":[{"spec":{"clusterIP":"10.96.0.1"}}]}"#), address);
        assert_eq!(said(r#"{"items":[{"spec":{"clusterIP":"None"}}]}"#), Known::Name);
        assert_eq!(said(r#"{"items":[]}"#), Known::Nothing);
        assert_eq!(look_up(name, |_| Err("refused".to_owned())), Known::Unknown);
    }

    #[test]
    fn an_address_is_answered_where_it_was_asked_for() {
        let datagram = asked("a.b.svc.cluster.local", 1);
        let question = read(&datagram).unwrap();
        let known = Known::Address(Ipv4Addr::new(10, 96, 0, 1));
        let answered = answer(&datagram, &question, &known);
        assert_eq!(answered[..8], [7, 9, 0x85, 0x80, 0, 1, 0, 1]);
        assert!(answered.ends_with(&[0, 4, 10, 96, 0, 1]));
        let six = asked("a.b.svc.cluster.local", 28);
        let answered = answer(&six, &read(&six).unwrap(), &known);
        assert_eq!(
            answered[3..8],
            [0x80, 0, 1, 0, 0],
            "there is the name, and no address of that kind"
        );
        assert_eq!(answer(&datagram, &question, &Known::Nothing)[3], 0x83);
    }
}
