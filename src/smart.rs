//! Who may export what. Today every client may have everything (`smart.mode: open`, on loopback only); what a
//! token permits will narrow the same [`Grant`](admit::Grant).

pub(crate) mod admit;
