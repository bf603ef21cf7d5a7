//! The system calls for which no safe wrapper serves, each behind a safe function.
//!
//! This is the crate's only module with unsafe code. Every block passes the kernel plain integers,
//! pointers to live local values, or NUL-terminated strings that outlive the call.
#![allow(unsafe_code)]

mod answer;
mod descriptors;
mod filters;
mod limits;
mod namespaces;
mod privileges;
mod process;

pub(crate) use descriptors::{become_standard, close_on_exec_from, has_input, inherited, poll};
pub(crate) use filters::{
    Answer, Question, answer_question, install_asking_filter, install_filter, next_question, replace_descriptor,
};
pub(crate) use limits::{limit, page_size, run_promptly, use_processors};
pub(crate) use namespaces::{bring_up_loopback, set_host_name, set_mount_attributes};
pub(crate) use privileges::{
    become_subreaper, become_unreadable, die_with_parent, drop_capabilities, drop_groups, identity, landlock_abi,
    set_no_new_privileges,
};
pub(crate) use process::{
    Fork, Waited, child_signal, children_peak, exec, exit_now, fork, kill, may_signal, new_session, own_pid, pidfd,
    reset_signals, wait,
};
