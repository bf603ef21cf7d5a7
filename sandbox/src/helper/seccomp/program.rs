//! Filters in the kernel's own language: one judgement for each call that is looked at.

use libc::{c_long, sock_filter};

#[cfg(target_arch = "x86_64")]
pub(super) const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
pub(super) const ARCH: u32 = 0xC000_00B7;

/// The first number of the x32 calls, which name the same calls a second time.
const X32: u32 = 0x4000_0000;

pub(super) const ALLOW: u32 = 0x7fff_0000;
pub(super) const DENY: u32 = 0x0005_0000;
/// Leaves a call to whoever holds the filter's descriptor.
pub(super) const ASK: u32 = 0x7fc0_0000;

const fn stmt(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

pub(super) const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
pub(super) const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
pub(super) const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
pub(super) const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
pub(super) const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
pub(super) const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// A filter in the making.
pub(super) struct Filter {
    program: Vec<sock_filter>,
}

/// The judgement of one call's arguments. What it does not decide is allowed.
pub(super) struct Body {
    program: Vec<sock_filter>,
}

impl Filter {
    pub(super) fn begin() -> Filter {
        let program = vec![
            stmt(LOAD, ARCHITECTURE),
            jump(EQUAL, ARCH, 1, 0),
            stmt(RETURN, DENY | libc::ENOSYS as u32),
            stmt(LOAD, NUMBER),
            jump(AT_LEAST, X32, 0, 1),
            stmt(RETURN, DENY | libc::ENOSYS as u32),
        ];
        Filter { program }
    }

    pub(super) fn deny(&mut self, number: c_long, errno: i32) {
        self.program.push(jump(EQUAL, number as u32, 0, 1));
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    pub(super) fn when(&mut self, number: c_long, judge: impl FnOnce(&mut Body)) {
        let mut body = Body { program: Vec::new() };
        judge(&mut body);
        body.program.push(stmt(RETURN, ALLOW));
        // Bodies are a dozen instructions; a jump reaches 255.
        let length = body.program.len() as u8;
        self.program.push(jump(EQUAL, number as u32, 0, length));
        self.program.append(&mut body.program);
    }

    pub(super) fn finish(mut self) -> Vec<sock_filter> {
        self.program.push(stmt(RETURN, ALLOW));
        self.program
    }
}

impl Body {
    /// Loads the lower half of an argument; the kernel looks at no more of those judged here.
    fn load(&mut self, argument: u32, mask: u32) {
        self.program.push(stmt(LOAD, 16 + 8 * argument));
        if mask != u32::MAX {
            self.program.push(stmt(AND, mask));
        }
    }

    pub(super) fn deny_if_any_bit(&mut self, argument: u32, bits: u32, errno: i32) {
        self.load(argument, u32::MAX);
        self.program.push(jump(ANY_BIT, bits, 0, 1));
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    pub(super) fn deny_if_equal(&mut self, argument: u32, value: u32, errno: i32) {
        self.load(argument, u32::MAX);
        self.program.push(jump(EQUAL, value, 0, 1));
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    /// Judges all 64 bits.
    pub(super) fn deny_if_above(&mut self, argument: u32, value: u32, errno: i32) {
        self.program.push(stmt(LOAD, 16 + 8 * argument + 4));
        self.program.push(jump(EQUAL, 0, 0, 2));
        self.load(argument, u32::MAX);
        self.program.push(jump(AT_LEAST, value.saturating_add(1), 0, 1));
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    pub(super) fn deny_unless_equal(&mut self, argument: u32, value: u32, mask: u32, errno: i32) {
        self.load(argument, mask);
        self.program.push(jump(EQUAL, value, 1, 0));
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    pub(super) fn allow_if_equal(&mut self, argument: u32, value: u32, mask: u32) {
        self.load(argument, mask);
        self.program.push(jump(EQUAL, value, 0, 1));
        self.program.push(stmt(RETURN, ALLOW));
    }

    pub(super) fn allow_all(&mut self) {
        self.program.push(stmt(RETURN, ALLOW));
    }

    pub(super) fn ask(&mut self) {
        self.program.push(stmt(RETURN, ASK));
    }

    pub(super) fn deny_all(&mut self, errno: i32) {
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    /// Judges further when an argument has one of some bits.
    pub(super) fn when_any_bit(&mut self, argument: u32, bits: u32, judge: impl FnOnce(&mut Body)) {
        let mut body = Body { program: Vec::new() };
        judge(&mut body);
        self.load(argument, u32::MAX);
        self.program.push(jump(ANY_BIT, bits, 0, body.program.len() as u8));
        self.program.append(&mut body.program);
    }

    /// Judges further when an argument has a value.
    pub(super) fn when_equal(&mut self, argument: u32, value: u32, judge: impl FnOnce(&mut Body)) {
        let mut body = Body { program: Vec::new() };
        judge(&mut body);
        self.load(argument, u32::MAX);
        self.program.push(jump(EQUAL, value, 0, body.program.len() as u8));
        self.program.append(&mut body.program);
    }
}
