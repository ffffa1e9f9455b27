use proptest::prelude::*;

use super::{chunk::PLACEHOLDER_SIZES, *};

fn validate(bytes: &[u8], end: StreamEnd) -> Result<ValidWav, WavError> {
    let mut check = WavValidator::new();
    check.push(bytes)?;
    check.finish(end)
}

fn check(bytes: &[u8], announced: Option<u64>) -> Result<WavInfo, WavError> {
    Ok(validate(bytes, announced.map_or(StreamEnd::Unmarked, StreamEnd::Announced))?.info)
}

/// Validates a whole download.
fn whole(bytes: &[u8]) -> ValidWav {
    let announced = validate(bytes, StreamEnd::Announced(bytes.len() as u64)).unwrap();
    assert_eq!(validate(bytes, StreamEnd::Marked), Ok(announced.clone()));
    announced
}

fn hound_file(spec: hound::WavSpec, samples: usize) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for _ in 0..samples {
        match spec.sample_format {
            hound::SampleFormat::Float => writer.write_sample(0.25f32).unwrap(),
            hound::SampleFormat::Int => writer.write_sample(7i32).unwrap(),
        }
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

fn telephone_file(samples: usize) -> Vec<u8> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    hound_file(spec, samples)
}

fn chunk(name: &[u8], size: u32, body: &[u8]) -> Vec<u8> {
    [name, &size.to_le_bytes()[..], body].concat()
}

fn format_chunk(tag: u16, channels: u16, rate: u32, byte_rate: u32, bits: u16) -> Vec<u8> {
    let body = [
        &tag.to_le_bytes()[..],
        &channels.to_le_bytes(),
        &rate.to_le_bytes(),
        &byte_rate.to_le_bytes(),
        &1u16.to_le_bytes(),
        &bits.to_le_bytes(),
    ]
    .concat();
    chunk(b"fmt ", 16, &body)
}

fn riff(size: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    [b"RIFF", &size.to_le_bytes()[..], b"WAVE", &chunks.concat()].concat()
}

#[test]
fn accepts_files_of_an_independent_writer() {
    for (channels, bits, sample_format, name) in [
        (1, 16, hound::SampleFormat::Int, "pcm"),
        (2, 8, hound::SampleFormat::Int, "pcm"),
        (2, 24, hound::SampleFormat::Int, "pcm"),
        (6, 32, hound::SampleFormat::Float, "ieee_float"),
    ] {
        let spec = hound::WavSpec { channels, sample_rate: 16_000, bits_per_sample: bits, sample_format };
        let bytes = hound_file(spec, 16_000 * usize::from(channels));
        let info = check(&bytes, Some(bytes.len() as u64)).unwrap();
        assert_eq!((info.format.as_str(), info.channels, info.sample_rate_hz), (name, channels, 16_000));
        assert_eq!(info.bits_per_sample, bits);
        assert!((info.seconds - 1.0).abs() < 1e-9, "{info:?}");
        assert!(!info.open_ended);
    }
}

#[test]
fn rejects_other_files() {
    for (bytes, what) in [
        (&b"<!DOCTYPE html><html>"[..], "HTML or XML"),
        (b"\xEF\xBB\xBF <?xml version=\"1.0\"?>", "HTML or XML"),
        (b"{\"error\": \"not found\"}", "JSON"),
        (b"{}", "JSON"),
        (b"<", "HTML or XML"),
        (b"ID3\x04\0\0\0\0\0\0\0\0\0", "MP3"),
        (b"OggS\0\0\0\0\0\0\0\0\0\0", "Ogg"),
        (b"RIFF\x10\0\0\0AVI LIST", "another RIFF file"),
        (b"Internal Server Error", "text"),
        (b"\0\0\0\0\0\0\0\0\0\0\0\0\0", "something unknown"),
    ] {
        assert_eq!(check(bytes, Some(bytes.len() as u64)), Err(WavError::NotWav(what)), "{bytes:?}");
    }
    assert_eq!(check(b"", None), Err(WavError::Empty));
    assert_eq!(check(b"", Some(10)), Err(WavError::Empty));
}

#[test]
fn rejects_a_header_without_audio() {
    let bytes = telephone_file(0);
    assert_eq!(bytes.len(), 44);
    assert_eq!(check(&bytes, Some(44)), Err(WavError::NoSound));
    for length in 4..44 {
        assert_eq!(check(&telephone_file(800)[..length], None), Err(WavError::NoSound), "{length}");
    }
    // A data chunk that is really empty, with a comment after it.
    let list = chunk(b"LIST", 4, b"INFO");
    let bytes = riff(4 + 24 + 8 + 12, &[format_chunk(1, 1, 8000, 16_000, 16), chunk(b"data", 0, b""), list]);
    assert_eq!(check(&bytes, None), Err(WavError::NoSound));
}

#[test]
fn rejects_an_incomplete_download() {
    let bytes = telephone_file(800);
    assert_eq!(check(&bytes[..1000], None), Err(WavError::Truncated { expected: 1600, got: 956 }));
    let announced = bytes.len() as u64;
    assert_eq!(
        check(&bytes[..1000], Some(announced)),
        Err(WavError::Length { expected: announced, got: 1000 })
    );
    assert_eq!(check(&bytes, Some(10)), Err(WavError::Length { expected: 10, got: announced }));
}

#[test]
fn rejects_impossible_formats() {
    for (tag, channels, rate, byte_rate, bits) in [
        (1, 0, 8000, 16_000, 16),
        (1, 1, 0, 16_000, 16),
        (1, 1, 8000, 0, 0),
        (1, 1, u32::MAX, 16_000, 16),
        (1, 60_000, 8000, 16_000, 16),
        (0x31, 1, 8000, 0, 0),
    ] {
        let data = chunk(b"data", 4, &[1; 4]);
        let bytes = riff(40, &[format_chunk(tag, channels, rate, byte_rate, bits), data]);
        assert!(matches!(check(&bytes, None), Err(WavError::Header(_))), "{tag} {channels} {rate}");
    }
    let bytes = riff(40, &[chunk(b"data", 4, &[1; 4]), format_chunk(1, 1, 8000, 16_000, 16)]);
    assert!(matches!(check(&bytes, None), Err(WavError::Header(_))));
    let bytes = riff(40, &[chunk(b"fmt ", 4, &[1; 4])]);
    assert!(matches!(check(&bytes, None), Err(WavError::Header(_))));
}

#[test]
fn counts_the_bytes_of_streaming_writers() {
    for size in PLACEHOLDER_SIZES {
        let data = chunk(b"data", size, &[1; 16_000]);
        let bytes = riff(size, &[format_chunk(7, 1, 8000, 8000, 8), data]);
        let info = check(&bytes, None).unwrap();
        assert_eq!((info.format.as_str(), info.data_bytes, info.open_ended), ("mu-law", 16_000, true));
        assert!((info.seconds - 2.0).abs() < 1e-9);
        assert!(check(&bytes, Some(bytes.len() as u64 + 1)).is_err());
    }
}

#[test]
fn skips_other_chunks_and_their_padding() {
    let bytes = riff(
        1000,
        &[
            chunk(b"JUNK", 0, b""),
            chunk(b"LIST", 5, b"INFO!\0"),
            // GSM 6.10: the byte rate is all there is, and an extension of odd size follows.
            [chunk(b"fmt ", 21, &format_chunk(0x31, 1, 8000, 1625, 0)[8..]), b"\x02\0\x40\x01\0\0".to_vec()]
                .concat(),
            chunk(b"fact", 4, &[0; 4]),
            chunk(b"data", 3251, &[1; 3252]),
            chunk(b"id3 ", 9, b"whatever follows, cut"),
        ],
    );
    let info = check(&bytes, None).unwrap();
    assert_eq!((info.format.as_str(), info.data_bytes), ("0x0031", 3251));
}

#[test]
fn reads_extensible_and_rf64() {
    let mut extensible = format_chunk(0xFFFE, 2, 48_000, 288_000, 24)[8..].to_vec();
    extensible.extend_from_slice(&[22, 0, 24, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 16, 0]);
    extensible.extend_from_slice(&[0x80, 0, 0, 0xAA, 0, 0x38, 0x9B, 0x71]);
    let mut sizes = [0; 28];
    sizes[8..16].copy_from_slice(&288_000u64.to_le_bytes());
    for (got, verdict) in [(288_000usize, true), (287_994, false)] {
        let mut bytes = riff(
            u32::MAX,
            &[
                chunk(b"ds64", 28, &sizes),
                chunk(b"fmt ", 40, &extensible),
                chunk(b"data", u32::MAX, &vec![1; got]),
            ],
        );
        bytes[..4].copy_from_slice(b"RF64");
        let info = check(&bytes, None);
        assert_eq!(info.is_ok(), verdict, "{info:?}");
        if let Ok(info) = info {
            assert_eq!((info.format.as_str(), info.bits_per_sample, info.channels), ("pcm", 24, 2));
            assert!((info.seconds - 1.0).abs() < 1e-9);
        }
    }
}

#[test]
fn reads_more_than_four_gibibytes() {
    let mut sizes = [0; 28];
    let long = 5u64 << 30;
    sizes[8..16].copy_from_slice(&long.to_le_bytes());
    let mut header = riff(u32::MAX, &[chunk(b"ds64", 28, &sizes), format_chunk(1, 2, 48_000, 192_000, 16)]);
    header[..4].copy_from_slice(b"RF64");
    header.extend(chunk(b"data", u32::MAX, b""));
    let mut check = WavValidator::new();
    check.push(&header).unwrap();
    let block = vec![0; 64 << 20];
    for _ in 0..long / (64 << 20) {
        check.push(&block).unwrap();
    }
    assert_eq!(check.finish(StreamEnd::Unmarked).unwrap().info.data_bytes, long);
}

/// The RIFF size of a file with one `data` chunk of this size.
const fn riff_size(data: u32) -> u32 {
    data.wrapping_add(36)
}

/// Two seconds, and then what the header says about them.
fn two_seconds(declared: u32) -> Vec<u8> {
    let data = chunk(b"data", declared, &vec![0; 32_000]);
    riff(riff_size(declared), &[format_chunk(1, 1, 8000, 16_000, 16), data])
}

fn assert_two_seconds(valid: &ValidWav) {
    assert_eq!((valid.info.data_bytes, valid.info.format.as_str()), (32_000, "pcm"));
    assert!((valid.info.seconds - 2.0).abs() < 1e-9, "{valid:?}");
}

#[test]
fn a_wrong_data_size_does_not_make_a_whole_download_unusable() {
    assert_eq!(whole(&two_seconds(32_000)).defects, []);
    for declared in
        [0x7FFF_FF00, 2_000_000_000, 0xFFFF_1000, 32_016, 32_044, 32_001, 0x8000_0000, u32::MAX - 1]
    {
        let valid = whole(&two_seconds(declared));
        assert_two_seconds(&valid);
        assert!(valid.info.open_ended);
        let [WavDefect::Overstated { declared: stated, got: 32_000, declared_seconds }] = &valid.defects[..]
        else {
            panic!("{declared}: {:?}", valid.defects)
        };
        assert_eq!(*stated, u64::from(declared));
        assert!((*declared_seconds - f64::from(declared) / 16_000.0).abs() < 1e-6);
        let unmarked = validate(&two_seconds(declared), StreamEnd::Unmarked);
        if declared < 1_000_000_000 {
            assert_eq!(unmarked, Err(WavError::Truncated { expected: u64::from(declared), got: 32_000 }));
        } else {
            assert_eq!(unmarked, Ok(valid), "no recording is that long, so the header is wrong");
        }
    }
    for declared in PLACEHOLDER_SIZES {
        let valid = whole(&two_seconds(declared));
        assert_two_seconds(&valid);
        assert_eq!((valid.info.open_ended, valid.defects), (true, vec![WavDefect::OpenEnded]));
    }
    // A size of zero, although the size of the file is right.
    let mut bytes = two_seconds(0);
    bytes[4..8].copy_from_slice(&riff_size(32_000).to_le_bytes());
    assert_two_seconds(&whole(&bytes));
}

#[test]
fn reports_a_wrong_size_of_the_file() {
    for declared in [0, 10, 16_000, 0x7FFF_F024, u32::MAX] {
        let mut bytes = two_seconds(32_000);
        bytes[4..8].copy_from_slice(&declared.to_le_bytes());
        let valid = whole(&bytes);
        assert_two_seconds(&valid);
        assert_eq!(valid.defects, [WavDefect::FileSize { declared: u64::from(declared) + 8, got: 32_044 }]);
    }
}

#[test]
fn finds_the_sound_behind_an_odd_chunk_without_padding() {
    for (padding, is_unpadded) in [(&b""[..], true), (b"\0", false), (b"x", false)] {
        for body in [&b"INFO!"[..], b"INFOISFT\x05\0\0\0Lavf!"] {
            let list = chunk(b"LIST", u32::try_from(body.len()).unwrap(), &[body, padding].concat());
            let file = [format_chunk(1, 1, 8000, 16_000, 16), list, chunk(b"data", 32_000, &vec![0; 32_000])]
                .concat();
            let bytes = riff(u32::try_from(file.len()).unwrap() + 4, &[file]);
            let valid = whole(&bytes);
            assert_two_seconds(&valid);
            assert_eq!(valid.defects == [WavDefect::UnpaddedChunk], is_unpadded, "{:?}", valid.defects);
        }
    }
    // The audio itself has an odd size, and a chunk follows at once.
    let chunks =
        [format_chunk(7, 1, 8000, 8000, 8), chunk(b"data", 8001, &[0xFF; 8001]), chunk(b"LIST", 4, b"INFO")];
    let valid = whole(&riff(4 + 24 + 8009 + 12, &chunks));
    assert_eq!((valid.info.data_bytes, valid.defects), (8001, vec![WavDefect::UnpaddedChunk]));
}

#[test]
fn junk_after_the_sound_is_not_sound() {
    for junk in
        [&[0xA5; 700][..], &[0; 512], b"upstream timed out while reading the rest", b"<html>error</html>"]
    {
        let mut bytes = two_seconds(32_000);
        bytes.extend_from_slice(junk);
        let valid = whole(&bytes);
        assert_two_seconds(&valid);
        assert_eq!(valid.defects, [WavDefect::TrailingBytes(junk.len() as u64)]);
    }
    let mut bytes = two_seconds(32_000);
    bytes.extend(chunk(b"LIST", 4, b"INFO"));
    bytes[4..8].copy_from_slice(&(riff_size(32_000) + 12).to_le_bytes());
    assert_eq!(whole(&bytes).defects, []);
}

#[test]
fn a_header_that_understates_the_sound_does_not_hide_it() {
    // The size of the file is right, or the sound is longer than the header says by far.
    for (declared, riff) in [(1000, 32_000), (31_984, 32_000), (16_000, 32_000), (1000, 1000), (44, 44)] {
        let mut bytes = two_seconds(declared);
        bytes[4..8].copy_from_slice(&riff_size(riff).to_le_bytes());
        let valid = whole(&bytes);
        assert_two_seconds(&valid);
        assert!(valid.info.open_ended);
        assert_eq!(valid.defects, [WavDefect::Understated { declared: u64::from(declared), got: 32_000 }]);
    }
}

#[test]
fn counts_the_sound_of_several_data_chunks() {
    let half = || chunk(b"data", 16_000, &vec![0; 16_000]);
    let mut chunks = vec![format_chunk(1, 1, 8000, 16_000, 16), half(), chunk(b"LIST", 4, b"INFO"), half()];
    let valid = whole(&riff(4 + 24 + 2 * 16_008 + 12, &chunks));
    assert_two_seconds(&valid);
    assert_eq!(valid.defects, [WavDefect::SeveralDataChunks(2)]);
    chunks[3] = chunk(b"data", 2_000_000_000, &vec![0; 16_000]);
    let valid = whole(&riff(1, &chunks));
    assert_two_seconds(&valid);
    assert!(matches!(valid.defects[..], [WavDefect::SeveralDataChunks(2), WavDefect::Overstated { .. }]));
}

#[test]
fn counts_the_sound_of_several_files_in_a_row() {
    let valid = whole(&two_seconds(32_000).repeat(10));
    assert_eq!((valid.info.data_bytes, valid.defects), (320_000, vec![WavDefect::SeveralFiles(10)]));
    assert!((valid.info.seconds - 20.0).abs() < 1e-9);
    // Another format, and a header without sound before all.
    let mut bytes = telephone_file(0);
    bytes.extend(two_seconds(32_000));
    bytes.extend(riff(
        4 + 24 + 8 + 8000,
        &[format_chunk(7, 1, 8000, 8000, 8), chunk(b"data", 8000, &[1; 8000])],
    ));
    let valid = whole(&bytes);
    assert!((valid.info.seconds - 3.0).abs() < 1e-9, "{valid:?}");
    assert_eq!(valid.defects, [WavDefect::SeveralFiles(3)]);
    // The second one is not a WAV file.
    let mut bytes = two_seconds(32_000);
    bytes.extend_from_slice(b"RIFF\x10\0\0\0AVI LIST");
    assert_eq!(whole(&bytes).defects, [WavDefect::TrailingBytes(16)]);
}

#[test]
fn reads_the_format_of_old_and_sloppy_writers() {
    // WAVEFORMAT without a sample size, and PCM whose sample size is missing: the byte rate tells the duration.
    let short = chunk(b"fmt ", 14, &format_chunk(6, 1, 8000, 8000, 8)[8..22]);
    for format in [short, format_chunk(1, 1, 8000, 8000, 0), format_chunk(6, 1, 8000, 1, 8)] {
        let valid = whole(&riff(1, &[format, chunk(b"data", 16_000, &[0xD5; 16_000])]));
        assert!((valid.info.seconds - 2.0).abs() < 1e-9, "{valid:?}");
    }
}

#[test]
fn names_other_containers() {
    for (start, what) in [
        (&b"fLaC\0\0\0\x22\x10\0\x10\0"[..], "FLAC"),
        (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb", "Wave64"),
        (b"\0\0\0\x20ftypM4A ", "MP4"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0\0\0", "gzip"),
        (b"RIFX\0\0\0\x10WAVE", "another RIFF file"),
    ] {
        assert_eq!(check(start, None), Err(WavError::NotWav(what)));
    }
}

proptest! {
    #[test]
    fn never_panics(bytes: Vec<u8>, announced: Option<u64>) {
        let _ = check(&bytes, announced);
    }

    #[test]
    fn never_panics_on_chunks_and_ignores_boundaries(
        rf64: bool,
        chunks in prop::collection::vec((
            prop::sample::select(vec![*b"fmt ", *b"ds64", *b"data", *b"LIST", *b"RIFF", *b"junk", *b"\0\0\0\0"]),
            prop::sample::select(vec![0u32, 1, 4, 15, 16, 17, 18, 28, 40, 41, 100, 0x7FFF_F000, u32::MAX]),
            prop::collection::vec(any::<u8>(), 0..60),
        ), 0..6),
        cuts: Vec<u8>,
    ) {
        let chunks: Vec<_> = chunks.iter().map(|(name, size, body)| chunk(name, *size, body)).collect();
        let mut bytes = riff(1, &chunks);
        if rf64 {
            bytes[..4].copy_from_slice(b"RF64");
        }
        let whole = validate(&bytes, StreamEnd::Marked);
        let mut pieces = WavValidator::new();
        let (mut rest, mut outcome) = (&bytes[..], Ok(()));
        for cut in cuts {
            let (piece, tail) = rest.split_at(rest.len().min(usize::from(cut) % 24));
            outcome = pieces.push(piece);
            rest = tail;
        }
        let outcome = outcome.and_then(|()| pieces.push(rest)).and_then(|()| pieces.finish(StreamEnd::Marked));
        prop_assert_eq!(outcome, whole);
    }

    #[test]
    fn boundaries_between_pushes_do_not_matter(samples in 0usize..400, cut_off in 0usize..100, size in 1usize..64) {
        let bytes = telephone_file(samples);
        let bytes = &bytes[..bytes.len() - cut_off.min(bytes.len())];
        let mut pieces = WavValidator::new();
        for piece in bytes.chunks(size) {
            let _ = pieces.push(piece);
        }
        prop_assert_eq!(pieces.finish(StreamEnd::Unmarked).map(|valid| valid.info), check(bytes, None));
    }
}
