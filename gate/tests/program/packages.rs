//! Packages are downloaded once, by prepare, and never by a step.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gate::verdict::judge_prepare;
use git::FileEdit;
use sha2::{Digest, Sha256};

use crate::runner::{Bench, step};

/// A package server on loopback that counts what it is asked for.
struct Server {
    address: String,
    requests: Arc<AtomicUsize>,
}

impl Server {
    /// Serves what `pages` makes for its own address.
    fn start(pages: impl FnOnce(&str) -> BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let pages = Arc::new(pages(&address));
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (pages, counted) = (Arc::clone(&pages), Arc::clone(&counted));
                std::thread::spawn(move || answer(stream, &pages, &counted));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn answer(stream: TcpStream, pages: &BTreeMap<String, Vec<u8>>, counted: &AtomicUsize) {
    let mut writer = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(request)) = lines.next() {
        counted.fetch_add(1, Ordering::SeqCst);
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let (status, body) = match pages.get(&path) {
            Some(body) => ("200 OK", body.as_slice()),
            None => ("404 Not Found", &b""[..]),
        };
        let kind = if path.ends_with('/') {
            "text/html"
        } else {
            "application/octet-stream"
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: {kind}\r\n\r\n",
            body.len()
        );
        if writer
            .write_all(head.as_bytes())
            .and_then(|()| writer.write_all(body))
            .is_err()
        {
            return;
        }
    }
}

/// Runs prepare and gate twice: the first round downloads, the second asks for nothing.
fn two_rounds(bench: &mut Bench, server: &Server) {
    let before = bench.run();
    assert_eq!(before.error().0, "CacheMissing", "{}", before.printed);
    assert_eq!(server.requests(), 0);

    let prepared = bench.run_prepare();
    judge_prepare(&prepared.outcome).unwrap_or_else(|failure| panic!("{failure:?}\n{}", prepared.printed));
    let first = server.requests();
    assert!(first > 0, "prepare asked for nothing");
    let ran = bench.run();
    ran.assert_passed();
    assert_eq!(server.requests(), first, "a step asked the package server");

    let again = bench.run_prepare();
    judge_prepare(&again.outcome).unwrap();
    let ran = bench.run();
    ran.assert_passed();
    assert_eq!(server.requests(), first, "the second round downloaded something");
}

/// Packs a crate with one function, as a registry would serve it.
fn pack_crate(folder: &Path) -> Vec<u8> {
    let manifest = "[package]\nname = \"answers\"\nversion = \"1.2.3\"\nedition = \"2021\"\nlicense = \"MIT\"\ndescription = \"a\"\n[workspace]\n";
    std::fs::create_dir_all(folder.join("src")).unwrap();
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(folder.join("src/lib.rs"), "pub fn answer() -> i32 { 42 }\n").unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["package", "--offline", "--no-verify", "--allow-dirty", "--quiet"])
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::read(folder.join("target/package/answers-1.2.3.crate")).unwrap()
}

#[test]
fn a_locked_crate_is_downloaded_once_and_the_steps_run_offline() {
    let packing = tempfile::tempdir().unwrap();
    let package = pack_crate(packing.path());
    let checksum = hex::encode(Sha256::digest(&package));
    let server = Server::start(|address| {
        let line = format!(
            r#"{{"name":"answers","vers":"1.2.3","deps":[],"cksum":"{checksum}","features":{{}},"yanked":false}}"#
        );
        BTreeMap::from([
            (
                "/config.json".to_owned(),
                format!(r#"{{"dl":"http://{address}/dl/{{crate}}/{{version}}"}}"#).into_bytes(),
            ),
            ("/an/sw/answers".to_owned(), format!("{line}\n").into_bytes()),
            ("/dl/answers/1.2.3".to_owned(), package.clone()),
        ])
    });
    let config = format!(
        "[source.crates-io]\nreplace-with = \"local\"\n[source.local]\nregistry = \"sparse+http://{}/\"\n",
        server.address
    );
    let lock = format!(
        "version = 3\n\n[[package]]\nname = \"answers\"\nversion = \"1.2.3\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"{checksum}\"\n\n[[package]]\nname = \"sample\"\nversion = \"0.1.0\"\ndependencies = [\n \"answers\",\n]\n"
    );
    let manifest =
        "[package]\nname = \"sample\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\nanswers = \"1\"\n";
    let mut bench = Bench::new(
        &[
            ("Cargo.toml", manifest),
            ("Cargo.lock", &lock),
            (".cargo/config.toml", &config),
            ("src/lib.rs", ""),
        ],
        &[FileEdit::write(
            "src/lib.rs",
            "#[test]\nfn answers() { assert_eq!(answers::answer(), 42); }\n",
        )],
        vec![step("test", "cargo test --locked")],
    );
    use_this_toolchain(&mut bench);
    bench.prepare("cargo fetch --locked");
    two_rounds(&mut bench, &server);
    // The key of the cache is what a runner keeps it under; nothing unfinished stays beside it.
    let caches = bench.root.path().join("cache").join("0".repeat(16));
    let names: Vec<_> = std::fs::read_dir(caches)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["1".repeat(32).as_str()]);
}

/// Puts the toolchain that runs the tests first on the search path: a private home hides rustup's.
fn use_this_toolchain(bench: &mut Bench) {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let sysroot = String::from_utf8(output.stdout).unwrap();
    let path = format!("{}/bin:{}", sysroot.trim(), bench.env["PATH"]);
    bench.env.insert("PATH".into(), path);
}

/// Needs Python with pip.
#[test]
#[ignore = "needs Python with pip; run by the tier of tests that need tools"]
fn a_locked_python_package_is_downloaded_once_and_the_steps_run_offline() {
    let packing = tempfile::tempdir().unwrap();
    let wheel = pack_wheel(packing.path());
    let checksum = hex::encode(Sha256::digest(&wheel));
    let name = "answers-1.2.3-py3-none-any.whl";
    let server = Server::start(|_| {
        BTreeMap::from([
            (
                "/simple/answers/".to_owned(),
                format!("<a href=\"/files/{name}#sha256={checksum}\">{name}</a>").into_bytes(),
            ),
            (format!("/files/{name}"), wheel.clone()),
        ])
    });
    let requirements = format!(
        "--index-url http://{}/simple/\nanswers==1.2.3 --hash=sha256:{checksum}\n",
        server.address
    );
    let mut bench = Bench::new(
        &[("requirements.txt", &requirements), ("sample.py", "")],
        &[
            FileEdit::write(
                "sample.py",
                "import answers\n\n\ndef double():\n    return 2 * answers.answer()\n",
            ),
            FileEdit::write(
                "test_sample.py",
                "import unittest\nimport sample\n\n\nclass Test(unittest.TestCase):\n    def test_double(self):\n        self.assertEqual(sample.double(), 84)\n",
            ),
        ],
        vec![step("test", "python3 -m unittest discover")],
    );
    struct Base(String);
    impl gate::definition::BaseTree for Base {
        fn exists(&self, path: &str) -> bool {
            path == "requirements.txt"
        }
        fn read(&self, path: &str, _: usize) -> Option<Vec<u8>> {
            self.exists(path).then(|| self.0.clone().into_bytes())
        }
    }
    let preset = gate::definition::resolve(None, &Base(requirements), &|_| Err("no file".into()), &[]).unwrap();
    bench.prepare(&preset.prepare.unwrap().command);
    bench.gate.steps = preset.steps;
    two_rounds(&mut bench, &server);
}

fn pack_wheel(folder: &Path) -> Vec<u8> {
    let info = folder.join("answers-1.2.3.dist-info");
    std::fs::create_dir_all(&info).unwrap();
    std::fs::write(folder.join("answers.py"), "def answer():\n    return 42\n").unwrap();
    std::fs::write(
        info.join("METADATA"),
        "Metadata-Version: 2.1\nName: answers\nVersion: 1.2.3\n",
    )
    .unwrap();
    std::fs::write(
        info.join("WHEEL"),
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    )
    .unwrap();
    std::fs::write(
        info.join("RECORD"),
        "answers.py,,\nanswers-1.2.3.dist-info/METADATA,,\nanswers-1.2.3.dist-info/WHEEL,,\nanswers-1.2.3.dist-info/RECORD,,\n",
    )
    .unwrap();
    let output = Command::new("python3")
        .args([
            "-m",
            "zipfile",
            "-c",
            "answers.whl",
            "answers.py",
            "answers-1.2.3.dist-info",
        ])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::read(folder.join("answers.whl")).unwrap()
}

#[test]
fn a_failed_prepare_leaves_no_cache_and_says_why() {
    let mut bench = Bench::new(
        &[("file", "base")],
        &[FileEdit::write("file", "head")],
        vec![step("test", "true")],
    );
    bench.prepare("cat file; echo half > \"$FOREMAN_CACHE/half\"; echo no such package >&2; exit 7");
    let ran = bench.run_prepare();
    let failure = judge_prepare(&ran.outcome).unwrap_err();
    assert_eq!((failure.reason.as_str(), failure.retry), ("PrepareFailed", true));
    assert!(
        failure.detail.contains("exit code 7") && failure.detail.contains("no such package"),
        "{failure:?}"
    );
    assert!(
        ran.printed.contains("base"),
        "prepare runs on the base, not on the head"
    );
    assert_eq!(bench.run().error().0, "CacheMissing");
}

#[test]
fn a_gate_cannot_write_into_its_cache() {
    let mut bench = Bench::new(
        &[("file", "base")],
        &[FileEdit::write("file", "head")],
        vec![step(
            "test",
            "cat \"$FOREMAN_CACHE/kept\"; ! echo poison > \"$FOREMAN_CACHE/kept\"",
        )],
    );
    bench.prepare("echo good > \"$FOREMAN_CACHE/kept\"");
    judge_prepare(&bench.run_prepare().outcome).unwrap();
    let ran = bench.run();
    let kept = bench
        .root
        .path()
        .join("cache")
        .join("0".repeat(16))
        .join("1".repeat(32))
        .join("kept");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "good\n", "{}", ran.printed);
    ran.assert_passed();
}
