//! The last steps before a program: streams, limits, Landlock, seccomp, exec.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::message::Message;
use super::streams::Streams;
use super::{domain, questions, seccomp};
use crate::backend::Backend;
use crate::sys;
use crate::wire::Request;

/// Becomes the program; returns only when that fails.
///
/// Through `asks` goes where the questions of the system-call filter come from, if it has any.
pub(super) fn become_program(request: &Request, streams: &Streams, asks: &UnixStream, reports: &mut File) -> Failure {
    if let Err(failure) = prepare(request, streams, asks, reports) {
        return failure;
    }
    let Some(program) = &request.program else {
        sys::exit_now(0);
    };
    exec(program, request)
}

fn prepare(request: &Request, streams: &Streams, asks: &UnixStream, reports: &mut File) -> Result<(), Failure> {
    // Init's end takes the command along also where no pid namespace does.
    sys::die_with_parent().map_err(Failure::to("bind the command to init"))?;
    sys::new_session().map_err(Failure::to("start a session"))?;
    for (fd, number) in [(&streams.stdin, 0), (&streams.stdout, 1), (&streams.stderr, 2)] {
        sys::become_standard(fd.as_fd(), number).map_err(Failure::to("connect a standard stream"))?;
    }
    sys::close_on_exec_from(3).map_err(Failure::to("close descriptors"))?;
    set_limits(request)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::process::chdir(&request.cwd).map_err(Failure::to(format!(
        "enter the working directory {}",
        request.cwd.display()
    )))?;
    let mut landlock_abi = 0;
    if request.backend != Backend::Unsafe {
        sys::drop_capabilities().map_err(Failure::to("drop the capabilities"))?;
        sys::set_no_new_privileges().map_err(Failure::to("give up new privileges"))?;
        landlock_abi = domain::restrict(request)?;
    }
    sys::reset_signals();
    let seccomp = request.backend != Backend::Unsafe;
    Message::Confined { landlock_abi, seccomp }.send(reports);
    if seccomp {
        filter_calls(request, landlock_abi, asks)?;
    }
    Ok(())
}

fn filter_calls(request: &Request, landlock_abi: u32, asks: &UnixStream) -> Result<(), Failure> {
    let failed = || Failure::to::<std::io::Error>("install the seccomp filter");
    let mut rules = seccomp::Rules {
        backend: request.backend,
        net: request.net,
        nesting: request.nesting,
        preallocates: request.limits.keep_free.is_none(),
        unmapped_memory: request.unmapped_memory,
        any_processor: request.any_processor,
        landlock_abi,
        askable: true,
    };
    if rules.asks() {
        match sys::install_asking_filter(&seccomp::filter(&rules)) {
            Ok(listener) => {
                return questions::hand_over(asks, &listener).map_err(Failure::to("hand over the filter's questions"));
            }
            // Inside another sandbox that asks: a process has one to ask.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && rules.connects() => {
                let text = "this process is inside another sandbox that answers its calls, so that connections to the \
                            proxy cannot be judged: network by allow-list needs namespaces here";
                return Err(Failure::new(text));
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => rules.askable = false,
            Err(error) => return Err(failed()(error)),
        }
    }
    sys::install_filter(&seccomp::filter(&rules)).map_err(failed())
}

fn set_limits(request: &Request) -> Result<(), Failure> {
    let limits = &request.limits;
    let wanted = [
        (libc::RLIMIT_CORE, Some(0)),
        (libc::RLIMIT_FSIZE, limits.file_size_bytes),
        (libc::RLIMIT_NOFILE, limits.open_files),
        // Counted within the user namespace; without one it would count all of the user's processes.
        (
            libc::RLIMIT_NPROC,
            limits
                .pids
                .map(u64::from)
                .filter(|_| request.backend == Backend::Namespaces),
        ),
    ];
    for (resource, value) in wanted {
        if let Some(value) = value {
            sys::limit(libc::c_long::from(resource), value).map_err(Failure::to("set a resource limit"))?;
        }
    }
    Ok(())
}

/// Looks the program up and becomes it.
fn exec(program: &str, request: &Request) -> Failure {
    let missing = |text: String| Failure::missing(text);
    let path = request
        .env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or("", |(_, value)| value.as_str());
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        path.split(':')
            .filter(|folder| folder.starts_with('/'))
            .map(|folder| Path::new(folder).join(program))
            .collect()
    };
    let c_string = |text: &str| CString::new(text).ok();
    let args: Option<Vec<CString>> = [program]
        .into_iter()
        .chain(request.args.iter().map(String::as_str))
        .map(c_string)
        .collect();
    let env: Option<Vec<CString>> = request
        .env
        .iter()
        .map(|(name, value)| c_string(&format!("{name}={value}")))
        .collect();
    let (Some(args), Some(env)) = (args, env) else {
        return missing("the command holds a NUL byte".into());
    };
    let mut denied = None;
    for candidate in candidates {
        let Some(file) = candidate.to_str().and_then(c_string) else {
            continue;
        };
        let error = sys::exec(&file, &args, &env);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => denied = Some((candidate, error)),
            Some(libc::ENOEXEC) => {
                let text = format!(
                    "{} is neither a program of this machine nor a script with #!",
                    candidate.display()
                );
                return missing(text);
            }
            _ => {
                let text = format!("failed to run {}: {error}", candidate.display());
                return Failure::new(text);
            }
        }
    }
    match denied {
        Some((candidate, error)) => missing(format!("failed to run {}: {error}", candidate.display())),
        None if program.contains('/') => missing(format!("the program {program} does not exist in the sandbox")),
        None => missing(format!(
            "the program {program} is not on the PATH of the sandbox ({path})"
        )),
    }
}
