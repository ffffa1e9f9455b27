//! Reading WAV headers.
