//! How gates end on a real node.
