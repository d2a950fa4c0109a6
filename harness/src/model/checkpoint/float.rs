//! Floats of checkpoints: f32, f16 and bf16, little-endian, to and from f32.

use anyhow::{Result, bail};
use safetensors::Dtype;

/// Widens `bytes`, which must be `out.len()` values of type `dtype`.
///
/// # Errors
/// On a type that is none of f32, f16, bf16.
pub(super) fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    match dtype {
        Dtype::F32 => widen_each(bytes, out, f32::from_le_bytes),
        Dtype::F16 => widen_each(bytes, out, |b| from_f16(u16::from_le_bytes(b))),
        Dtype::BF16 => widen_each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        _ => bail!("type {dtype} is not read: expected F32, F16 or BF16"),
    }
    Ok(())
}

fn widen_each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let (values, _) = bytes.as_chunks::<N>();
    out.iter_mut().zip(values).for_each(|(out, &bytes)| *out = value(bytes));
}

/// Appends `values` as type `dtype`: f32, or bf16 rounded to nearest, ties to even.
///
/// # Errors
/// On another type.
pub(super) fn narrow(dtype: Dtype, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    match dtype {
        Dtype::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Dtype::BF16 => out.extend(values.iter().flat_map(|&v| to_bf16(v).to_le_bytes())),
        _ => bail!("type {dtype} is not written: expected F32 or BF16"),
    }
    Ok(())
}

fn from_f16(half: u16) -> f32 {
    /// Between the two biases of the exponent: 127 - 15.
    const SHIFT: f32 = f32::from_bits((127 + 112) << 23);
    let sign = u32::from(half & 0x8000) << 16;
    let size = u32::from(half & 0x7fff) << 13;
    let bits = if size < 0x0f80_0000 {
        (f32::from_bits(size) * SHIFT).to_bits()
    } else {
        size | 0x7f80_0000 // infinity and NaN
    };
    f32::from_bits(sign | bits)
}

fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x0040; // a quiet NaN, whatever bits are cut
    }
    let half = 0x7fff + (bits >> 16 & 1);
    ((bits + half) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    fn candle(dtype: DType, bytes: &[u8]) -> Vec<f32> {
        let raw = Tensor::from_raw_buffer(bytes, dtype, &[bytes.len() / 2], &Device::Cpu).unwrap();
        raw.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn every_sixteen_bit_float_widens_as_in_candle() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (dtype, name) in [(Dtype::F16, DType::F16), (Dtype::BF16, DType::BF16)] {
            let mut ours = vec![0.0; 1 << 16];
            widen(dtype, &bytes, &mut ours).unwrap();
            for (ours, theirs) in ours.iter().zip(candle(name, &bytes)) {
                let same = ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan();
                assert!(same, "{dtype}: {ours} {theirs}");
            }
        }
        assert!(widen(Dtype::I64, &[0; 8], &mut [0.0]).unwrap_err().to_string().contains("I64"));
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let cases = [
            (1.0, 1.0),
            (257.0, 256.0), // a tie goes down to the even one
            (259.0, 260.0), // a tie goes up to the even one
            (257.1, 258.0),
            (-257.1, -258.0),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
            (1e-45, 0.0),
        ];
        for (value, expected) in cases {
            let (mut bytes, mut back) = (vec![], [f32::NAN]);
            narrow(Dtype::BF16, &[value], &mut bytes).unwrap();
            widen(Dtype::BF16, &bytes, &mut back).unwrap();
            assert_eq!(back[0], expected, "{value}");
        }
        assert!(f32::from_bits(u32::from(to_bf16(f32::from_bits(0x7f80_0001))) << 16).is_nan());
    }
}
