//! Why patches cannot be applied.

use serde_json::Value;

/// Why a patch cannot be applied, in kube-apiserver's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself cannot be read: 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
    /// The patch does not fit the object: 422 Invalid.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch has too many operations: 413 RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
    /// The patch makes the server fail: 500, without a reason.
    #[error("{0}")]
    Internal(String),
}

impl PatchError {
    /// Returns the HTTP status.
    pub fn code(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Unprocessable(_) => 422,
            Self::TooLarge(_) => 413,
            Self::Internal(_) => 500,
        }
    }

    /// Builds the `Status` object that answers the request.
    ///
    /// What exactly did not fit a 422 is not said there: kube-apiserver says the same to
    /// every client; [`std::fmt::Display`] has it.
    pub fn status(&self) -> Value {
        let (message, reason) = match self {
            Self::BadRequest(m) => (m.clone(), "BadRequest"),
            Self::Unprocessable(_) => (
                "the server rejected our request due to an error in our request".to_owned(),
                "Invalid",
            ),
            Self::TooLarge(m) => (format!("Request entity too large: {m}"), "RequestEntityTooLarge"),
            Self::Internal(m) => (m.clone(), ""),
        };
        let mut status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        });
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        if matches!(self, Self::Unprocessable(_)) {
            status["details"] = serde_json::json!({});
        }
        status["code"] = self.code().into();
        status
    }
}
