use proptest::prelude::*;

use super::*;

/// A WAV file whose header states `data_size`.
fn wav(tag: u16, channels: u16, bits: u16, data_size: u32, sound: &[u8]) -> Vec<u8> {
    let mut file = b"RIFF\xFF\xFF\xFF\xFFWAVEfmt \x10\0\0\0".to_vec();
    for number in [tag, channels] {
        file.extend(number.to_le_bytes());
    }
    for number in [8000_u32, 8000] {
        file.extend(number.to_le_bytes());
    }
    for number in [1, bits] {
        file.extend(number.to_le_bytes());
    }
    file.extend(b"data");
    file.extend(data_size.to_le_bytes());
    file.extend(sound);
    file
}

fn peaks_of(file: &[u8]) -> Result<Peaks, PeaksError> {
    let mut reader = PeakReader::new();
    reader.push(file)?;
    reader.finish()
}

/// Returns the lowest and the highest sample of each channel.
fn extremes(file: &[u8]) -> Vec<(i16, i16)> {
    let channels = peaks_of(file).unwrap().channels;
    channels
        .iter()
        .map(|peaks| (*peaks.min.iter().min().unwrap(), *peaks.max.iter().max().unwrap()))
        .collect()
}

fn signed_16(samples: impl IntoIterator<Item = i16>) -> Vec<u8> {
    samples.into_iter().flat_map(i16::to_le_bytes).collect()
}

#[test]
fn reads_the_samples_of_each_encoding() {
    let float = |samples: &[f32]| samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<u8>>();
    let double =
        |samples: &[f64]| samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<u8>>();
    // The codes of G.711 are those of the tables in its annexes.
    for (tag, bits, sound, expected) in [
        (1, 8, vec![0x80, 0x00, 0xFF, 0x90], (-32768, 0x7F00)),
        (1, 16, signed_16([0, -300, 32767, 5]), (-300, 32767)),
        (1, 12, signed_16([0, -32768, 0x7FF0, 5]), (-32768, 0x7FF0)),
        (1, 24, vec![9, 0, 0, 0xFF, 0x34, 0x12, 0, 0, 0x80], (-32768, 0x1234)),
        (1, 32, vec![9, 9, 0, 0, 0xFF, 0xFF, 0x34, 0x12, 0, 0, 0, 0x80], (-32768, 0x1234)),
        (3, 32, float(&[0.0, -0.5, 1.0, f32::NAN]), (-16384, 32767)),
        (3, 32, float(&[0.0, -7.0, f32::INFINITY]), (-32767, 32767)),
        (3, 64, double(&[0.0, -0.5, 0.25]), (-16384, 8192)),
        (6, 8, vec![0xD5, 0xAA, 0x2A, 0x55], (-32256, 32256)),
        (6, 8, vec![0xD5, 0x55], (-8, 8)),
        (7, 8, vec![0xFF, 0x80, 0x00, 0x7F], (-32124, 32124)),
        (7, 0, vec![0xFE, 0x7E], (-8, 8)),
    ] {
        let size = u32::try_from(sound.len()).unwrap();
        assert_eq!(extremes(&wav(tag, 1, bits, size, &sound)), [expected], "{tag} {bits} {sound:?}");
    }
}

#[test]
fn draws_the_first_two_channels_one_by_one() {
    let sound = signed_16([1, 100, -2, -200, 3, 300]);
    assert_eq!(extremes(&wav(1, 2, 16, 12, &sound)), [(-2, 3), (-200, 300)]);
    assert_eq!(extremes(&wav(1, 3, 16, 12, &sound)), [(-200, 1), (3, 100)]);
    // The last frame is not complete.
    assert_eq!(extremes(&wav(1, 2, 16, u32::MAX, &sound[..11])), [(-2, 1), (-200, 100)]);
}

#[test]
fn keeps_the_peaks_of_a_long_recording_in_a_fixed_number_of_buckets() {
    let peaks = peaks_of(&wav(1, 1, 16, 10_002, &signed_16(0..5001))).unwrap();
    let [channel] = &peaks.channels[..] else { panic!("{peaks:?}") };
    assert_eq!(channel.min, (0..1251).map(|bucket| bucket * 4).collect::<Vec<_>>());
    let highest = (0..1251).map(|bucket| (bucket * 4 + 3).min(5000)).collect::<Vec<_>>();
    assert_eq!(channel.max, highest);
    assert!((peaks.seconds - 5001.0 / 8000.0).abs() < 1e-9 && (peaks.bucket_seconds - 0.0005).abs() < 1e-9);

    let short = peaks_of(&wav(1, 1, 16, 6, &signed_16([1, 2, 3]))).unwrap();
    assert_eq!(short.channels[0].max, [1, 2, 3]);
}

#[test]
fn a_header_with_wrong_sizes_hides_no_sound() {
    let sound = signed_16((0..2000).map(|sample| sample * 10));
    for size in [0, u32::MAX, 0x7FFF_FFFF, 4000, 1_000_000] {
        assert_eq!(extremes(&wav(1, 1, 16, size, &sound)), [(0, 19990)], "{size}");
    }
    // Two files in a row.
    let two = [wav(1, 1, 16, 4000, &sound), wav(1, 1, 16, 2, &signed_16([-7]))].concat();
    assert_eq!(extremes(&two), [(-7, 19990)]);
    let other = [wav(1, 1, 16, 4000, &sound), wav(7, 1, 8, 1, &[0])].concat();
    assert_eq!(extremes(&other), [(0, 19990)]);
}

#[test]
fn says_why_there_is_no_waveform() {
    for (file, error) in [
        (b"<html>no recording".to_vec(), "not a WAV file but HTML or XML"),
        (Vec::new(), "a WAV header without sound"),
        (wav(1, 1, 16, 0, b""), "a WAV header without sound"),
        (wav(1, 2, 16, 2, b"ab"), "a WAV header without sound"),
        (wav(0x31, 1, 0, 4, b"abcd"), "its encoding (0x0031, 0 bits) cannot be drawn"),
        (wav(1, 1, 48, 6, b"abcdef"), "its encoding (pcm, 48 bits) cannot be drawn"),
        (wav(1, 0, 16, 4, b"abcd"), "the WAV header is invalid: its number of channels is impossible"),
    ] {
        assert_eq!(peaks_of(&file).unwrap_err().to_string(), error);
    }
}

proptest! {
    /// The start of a file is changed at random, and the file arrives in random pieces.
    #[test]
    fn a_damaged_file_in_any_pieces_never_panics_and_gives_the_same_peaks(
        tag in prop::sample::select(vec![1_u16, 3, 6, 7, 0xFFFE, 0x31]),
        channels in 0_u16..5,
        bits in 0_u16..70,
        size in prop_oneof![Just(0_u32), Just(u32::MAX), 0_u32..9000],
        sound in prop::collection::vec(any::<u8>(), 0..9000),
        damage in prop::collection::vec((0_usize..60, any::<u8>()), 0..3),
        cuts in prop::collection::vec(1_usize..700, 1..20),
    ) {
        let mut file = wav(tag, channels, bits, size, &sound);
        for (at, byte) in damage {
            if let Some(target) = file.get_mut(at) {
                *target = byte;
            }
        }
        let whole = peaks_of(&file);
        let mut reader = PeakReader::new();
        let (mut rest, mut cuts, mut result) = (&file[..], cuts.iter().cycle(), Ok(()));
        while !rest.is_empty() && result.is_ok() {
            let (part, next) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            result = reader.push(part);
            rest = next;
        }
        prop_assert_eq!(&whole, &result.and_then(|()| reader.finish()));
        for channel in whole.iter().flat_map(|peaks| &peaks.channels) {
            prop_assert!((1..=MAX_BUCKETS).contains(&channel.min.len()));
            prop_assert!(channel.min.len() == channel.max.len());
            prop_assert!(channel.min.iter().zip(&channel.max).all(|(min, max)| min <= max));
        }
    }
}
