//! JPEGs of flat blocks, whose pixels follow from their means.

use std::path::Path;

use super::*;
use crate::picture::{Picture, Size};

/// A JPEG of this frame: its luma has blocks of `luma`, its chroma is grey. As many blocks
/// are a MCU as the sampling says.
#[derive(Clone)]
struct Flat {
    frame: u8,
    sampling: Vec<(usize, usize)>,
    /// MCUs in a row and in a column.
    mcus: (usize, usize),
    /// The components of each scan.
    scans: Vec<Vec<usize>>,
    interval: usize,
    ids: [u8; 4],
    before: Vec<u8>,
}

impl Flat {
    fn new(frame: u8, sampling: &[(usize, usize)], scans: &[&[usize]]) -> Self {
        Self {
            frame,
            sampling: sampling.into(),
            mcus: (3, 2),
            scans: scans.iter().map(|scan| scan.to_vec()).collect(),
            interval: 0,
            ids: [1, 2, 3, 4],
            before: Vec::new(),
        }
    }

    fn most(&self) -> (usize, usize) {
        let across = self.sampling.iter().map(|one| one.0).max().unwrap();
        (across, self.sampling.iter().map(|one| one.1).max().unwrap())
    }

    fn size(&self) -> Size {
        let (across, down) = self.most();
        Size::new(8 * across * self.mcus.0, 8 * down * self.mcus.1)
    }

    /// The mean of a block: multiples of 8 from 16 on, in no order.
    fn mean(component: usize, x: usize, y: usize) -> i32 {
        match component {
            0 => 16 + 8 * ((5 * x + 11 * y) % 27) as i32,
            _ => 128,
        }
    }

    /// The luma of each pixel.
    fn pixels(&self) -> Vec<u8> {
        let Size { width, height } = self.size();
        let ((across, down), (most_across, most_down)) = (self.sampling[0], self.most());
        let block = |x: usize, y: usize| {
            let (x, y) = (x * across / most_across / 8, y * down / most_down / 8);
            Self::mean(0, x, y) as u8
        };
        let rows = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        rows.flat_map(|(x, y)| [block(x, y); 3]).collect()
    }

    fn head(&self) -> Vec<u8> {
        let Size { width, height } = self.size();
        let mut out = [&[0xff, 0xd8], &self.before[..]].concat();
        let mut put = |marker, content: &[u8]| segment(&mut out, marker, content);
        put(marker::DQT, &[&[0][..], &[8; 64]].concat());
        let count = self.sampling.len() as u8;
        let mut frame = vec![8, 0, height as u8, 0, width as u8, count];
        for (id, (across, down)) in self.ids.iter().zip(&self.sampling) {
            frame.extend([*id, (across << 4 | down) as u8, 0]);
        }
        put(self.frame, &frame);
        // DC: twelve codes of four bits. AC: 0 ends a block.
        let dc: Vec<u8> = (0..12).collect();
        put(
            marker::DHT,
            &[&[0, 0, 0, 0, 12][..], &[0; 12], &dc].concat(),
        );
        put(marker::DHT, &[&[0x10, 1][..], &[0; 15], &[0]].concat());
        if self.interval > 0 {
            put(marker::DRI, &(self.interval as u16).to_be_bytes());
        }
        out
    }

    /// The blocks of each MCU of a scan.
    fn units(&self, scan: &[usize]) -> Vec<Vec<(usize, usize, usize)>> {
        let alone = [(1, 1)];
        let (columns, rows, sampling): (_, _, &[_]) = match *scan {
            [one] => {
                let (across, down) = self.sampling[one];
                (self.mcus.0 * across, self.mcus.1 * down, &alone)
            }
            _ => (self.mcus.0, self.mcus.1, &self.sampling),
        };
        let of_mcu = |column: usize, row: usize| {
            let of_one = |(i, &component): (usize, &usize)| {
                let (across, down) = sampling[if scan.len() == 1 { i } else { component }];
                let places = (0..down).flat_map(move |y| (0..across).map(move |x| (x, y)));
                places.map(move |(x, y)| (component, column * across + x, row * down + y))
            };
            scan.iter().enumerate().flat_map(of_one).collect()
        };
        let mcus = (0..rows).flat_map(|row| (0..columns).map(move |column| (column, row)));
        mcus.map(|(column, row)| of_mcu(column, row)).collect()
    }

    /// A scan: its header and its codes. `band` holds the first and last coefficient.
    fn scan(&self, out: &mut Vec<u8>, scan: &[usize], band: (u8, u8)) {
        let mut header = vec![scan.len() as u8];
        header.extend(scan.iter().flat_map(|component| [self.ids[*component], 0]));
        header.extend([band.0, band.1, 0]);
        segment(out, marker::SOS, &header);
        let (mut bits, mut last) = (String::new(), [128; 4]);
        for (i, unit) in self.units(scan).into_iter().enumerate() {
            if self.interval > 0 && i > 0 && i % self.interval == 0 {
                flush(out, &mut bits);
                out.extend([0xff, 0xd0 + (i / self.interval - 1) as u8 % 8]);
                last = [128; 4];
            }
            for (component, x, y) in unit {
                if band.0 == 0 {
                    let mean = Self::mean(component, x, y);
                    bits += &difference(mean - last[component]);
                    last[component] = mean;
                }
                if band.1 > 0 {
                    bits += "0";
                }
            }
        }
        flush(out, &mut bits);
    }

    /// The file without its end marker.
    fn body(&self) -> Vec<u8> {
        let mut out = self.head();
        for scan in &self.scans {
            match self.frame {
                0xc2 => self.scan(&mut out, scan, (0, 0)),
                _ => self.scan(&mut out, scan, (0, 63)),
            }
        }
        if self.frame == 0xc2 {
            for component in 0..self.sampling.len() {
                self.scan(&mut out, &[component], (1, 63));
            }
        }
        out
    }

    fn file(&self) -> Vec<u8> {
        [&self.body()[..], &[0xff, 0xd9]].concat()
    }
}

fn segment(out: &mut Vec<u8>, marker: u8, content: &[u8]) {
    out.extend([0xff, marker]);
    out.extend((content.len() as u16 + 2).to_be_bytes());
    out.extend(content);
}

/// The code of a difference of means: its size in four bits, and its bits.
fn difference(value: i32) -> String {
    let size = (32 - value.unsigned_abs().leading_zeros()) as usize;
    let bits = if value > 0 {
        value
    } else {
        value + (1 << size) - 1
    };
    match size {
        0 => "0000".into(),
        _ => format!("{size:04b}{bits:0size$b}"),
    }
}

fn flush(out: &mut Vec<u8>, bits: &mut String) {
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    for byte in bits.as_bytes().chunks(8) {
        let text = std::str::from_utf8(byte).unwrap();
        let byte = u8::from_str_radix(text, 2).unwrap();
        out.push(byte);
        if byte == 0xff {
            out.push(0);
        }
    }
    bits.clear();
}

fn read(bytes: &[u8]) -> crate::Result<Picture> {
    Picture::decode(bytes, Path::new("in.jpg"))
}

fn failure(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

const NONE: &[(usize, usize)] = &[(1, 1), (1, 1), (1, 1)];
const HALF: &[(usize, usize)] = &[(2, 2), (1, 1), (1, 1)];
const WIDE: &[(usize, usize)] = &[(2, 1), (1, 1), (1, 1)];
const ALL: &[&[usize]] = &[&[0, 1, 2]];
const EACH: &[&[usize]] = &[&[0], &[1], &[2]];

/// Every way to divide a picture into scans.
fn whole() -> Vec<Flat> {
    let mut files = Vec::new();
    for sampling in [NONE, HALF, WIDE] {
        for scans in [ALL, EACH, &[&[0], &[1, 2]]] {
            for frame in [0xc0, 0xc1, 0xc2] {
                let flat = Flat::new(frame, sampling, scans);
                files.push(Flat {
                    interval: 2,
                    ..flat.clone()
                });
                files.push(flat);
            }
        }
    }
    files.push(Flat::new(0xc0, &[(2, 2)], &[&[0]]));
    files
}

#[test]
fn pictures_are_read_in_whatever_scans_they_are() {
    for flat in whole() {
        // A component alone has no sampling.
        let flat = match flat.sampling.len() {
            1 => Flat {
                sampling: vec![(1, 1)],
                ..flat
            },
            _ => flat,
        };
        let picture = read(&flat.file()).unwrap();
        let told = (flat.frame, &flat.sampling, &flat.scans, flat.interval);
        assert_eq!(picture.size(), flat.size(), "{told:?}");
        assert_eq!(picture.pixels(), flat.pixels(), "{told:?}");
    }
}

#[test]
fn all_blocks_make_a_picture_whole_and_no_end_marker_does() {
    let thumbnail = Flat::new(0xc0, NONE, ALL).file();
    // 0xfe is no code.
    let trailers = [&[][..], &[0xfe; 9], &[0xfe, 0xff, 0xd9], &thumbnail];
    for flat in [
        Flat::new(0xc0, HALF, ALL),
        Flat::new(0xc0, NONE, EACH),
        Flat::new(0xc2, HALF, ALL),
    ] {
        let (head, body) = (flat.head(), flat.body());
        for trailer in trailers {
            let uncut = [&body[..], trailer].concat();
            assert_eq!(read(&uncut).unwrap().pixels(), flat.pixels());
            for length in head.len()..body.len() {
                let error = failure(&[&body[..length], trailer].concat());
                let is_told = ["cut off", "damaged"]
                    .iter()
                    .any(|word| error.contains(word));
                assert!(is_told, "{length} of {}: {error}", body.len());
            }
        }
    }
}

#[test]
fn a_scan_without_blocks_is_cut_off() {
    for (frame, band) in [(0xc0, [0, 63, 0]), (0xc2, [0, 0, 0])] {
        let mut bytes = Flat::new(frame, NONE, ALL).head();
        segment(
            &mut bytes,
            marker::SOS,
            &[&[3, 1, 0, 2, 0, 3, 0][..], &band].concat(),
        );
        bytes.extend([0xff, 0xd9]);
        assert!(failure(&bytes).contains("cut off"));
    }
}

#[test]
fn a_progressive_picture_of_means_alone_needs_its_end() {
    let flat = Flat::new(0xc2, HALF, ALL);
    let mut means = flat.head();
    flat.scan(&mut means, &[0, 1, 2], (0, 0));
    assert!(failure(&means).contains("cut off"));
    assert!(failure(&[&means[..], &[0, 0xff, 0xd9]].concat()).contains("cut off"));
    let ended = [&means[..], &[0xff, 0xff, 0xd9]].concat();
    assert_eq!(read(&ended).unwrap().pixels(), flat.pixels());
}

#[test]
fn what_the_decoder_reads_wrongly_is_named() {
    let with = |at: usize, byte: u8| {
        let mut bytes = Flat::new(0xc0, NONE, ALL).file();
        let frame = bytes
            .windows(2)
            .position(|pair| pair == [0xff, 0xc0])
            .unwrap();
        bytes[frame + at] = byte;
        bytes
    };
    let sampled = |sampling: &[(usize, usize)], scans| Flat::new(0xc0, sampling, scans).file();
    for (bytes, told) in [
        (with(1, 0xc9), "arithmetic"),
        (with(1, 0xca), "arithmetic"),
        (with(1, 0xc3), "lossless"),
        (with(1, 0xc5), "hierarchical"),
        (with(4, 12), "12 bits"),
        (with(6, 0), "behind the pixels"),
        (sampled(&[(1, 1), (1, 1)], &[&[0, 1]]), "2 components"),
        (
            sampled(&[(1, 1), (2, 2), (2, 2)], ALL),
            "first component is not the finest",
        ),
        (sampled(&[(3, 1), (1, 1), (1, 1)], ALL), "3x1,1x1,1x1"),
        (sampled(HALF, &[&[0, 1], &[2]]), "several scans"),
    ] {
        let error = failure(&bytes);
        assert!(
            error.contains(told) && error.contains("save it again"),
            "{error}"
        );
    }
}

#[test]
fn bombs_are_refused_before_they_are_decoded() {
    // One block, and a hundred scans that refine its mean.
    let flat = Flat {
        mcus: (1, 1),
        ..Flat::new(0xc2, &[(1, 1)], &[&[0]])
    };
    let mut many = flat.head();
    flat.scan(&mut many, &[0], (0, 0));
    for _ in 0..100 {
        segment(&mut many, marker::SOS, &[1, 1, 0, 0, 0, 0x21]);
        many.push(0x7f);
    }
    assert!(failure(&many).contains("101 scans"), "{}", failure(&many));

    let mut huge = Flat::new(0xc2, NONE, ALL).file();
    let frame = huge
        .windows(2)
        .position(|pair| pair == [0xff, 0xc2])
        .unwrap();
    huge[frame + 5..frame + 9].copy_from_slice(&[0x40, 0, 0x40, 0]);
    assert!(failure(&huge).contains("too large"), "{}", failure(&huge));
    huge[frame + 5..frame + 9].copy_from_slice(&[0x40, 1, 0, 8]);
    assert!(failure(&huge).contains("too large"), "{}", failure(&huge));
}

#[test]
fn colours_are_stated_by_jfif_then_adobe_then_names() {
    let jfif = b"\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0".to_vec();
    let adobe = |transform: u8| [b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0", &[transform][..]].concat();
    // A grey luma with grey chroma is grey as YCbCr, and (luma, 128, 128) as RGB.
    for (before, ids, is_ycc) in [
        (vec![], *b"\x01\x02\x03\0", true),
        (vec![], *b"RGB\0", false),
        (vec![], *b"abc\0", true),
        (jfif.clone(), *b"RGB\0", true),
        (adobe(0), *b"\x01\x02\x03\0", false),
        (adobe(1), *b"RGB\0", true),
        (adobe(9), *b"\x01\x02\x03\0", true),
        ([jfif, adobe(0)].concat(), *b"\x01\x02\x03\0", true),
    ] {
        let flat = Flat {
            ids,
            before,
            ..Flat::new(0xc0, NONE, ALL)
        };
        let picture = read(&flat.file()).unwrap();
        let found = picture.pixels()[..3].to_vec();
        let expected = if is_ycc { [16, 16, 16] } else { [16, 128, 128] };
        assert_eq!(found, expected, "{:?} {ids:?}", flat.before);
    }
}

const PROGRESSIVE: [[u8; 3]; 4] = [[33, 51, 9], [189, 46, 128], [22, 172, 62], [207, 175, 102]];
const SCANS: [[u8; 3]; 4] = [[40, 96, 0], [98, 106, 3], [42, 107, 25], [100, 121, 30]];

/// Files of other encoders, with pixels at (4, 4) from each corner:
///
/// ```python
/// [Image.open(file).convert("RGB").getpixel(place) for place in places]
/// ```
#[test]
fn files_of_other_encoders_are_pillows_and_whole_only_with_all_their_codes() {
    for (bytes, size, corners) in [
        (
            &include_bytes!("../../../tests/data/progressive.jpg")[..],
            Size::new(30, 18),
            PROGRESSIVE,
        ),
        (
            include_bytes!("../../../tests/data/scans.jpg"),
            Size::new(40, 24),
            SCANS,
        ),
    ] {
        let picture = read(bytes).unwrap();
        assert_eq!(picture.size(), size);
        let (right, bottom) = (size.width - 5, size.height - 5);
        for ((x, y), corner) in [(4, 4), (right, 4), (4, bottom), (right, bottom)]
            .into_iter()
            .zip(corners)
        {
            let found = &picture.pixels()[3 * (y * size.width + x)..][..3];
            let off = found.iter().zip(corner).map(|(a, b)| a.abs_diff(b)).max();
            assert!(off <= Some(6), "{found:?} {corner:?}");
        }
        let scans = bytes
            .windows(2)
            .position(|pair| pair == [0xff, 0xda])
            .unwrap();
        for length in scans..bytes.len() - 2 {
            assert!(
                read(&bytes[..length]).is_err(),
                "{length} of {}",
                bytes.len()
            );
        }
        assert_eq!(read(&bytes[..bytes.len() - 2]).unwrap(), picture);
    }
}
