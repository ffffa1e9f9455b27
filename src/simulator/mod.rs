//! The stand-in PolyAI.
