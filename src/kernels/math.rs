//! The angles of wind: polynomials that the compiler turns into vector code, where libm goes one by one.
//!
//! Angles are worked out in f64 and rounded once at the end, so f32 results are the nearest f32 but for rare ties,
//! and f64 results are as good as libm's to a few steps.
//! That matters for directions: they jump at 0/360, and an angle that is off by a few f32 steps puts samples next
//! to the jump on its wrong side, which spoils the variance of the whole cell.

/// tan(pi/8): beyond it the argument is turned by 45 degrees.
const TAN_PI_8: f64 = 0.414_213_562_373_095_05;

/// atan(t)/t in powers of t*t for |t| <= tan(pi/8), by interpolation at Chebyshev nodes; the error of t times it is
/// below 6e-13 rad, a fifty-thousandth of an f32 step.
const ATAN: [f64; 8] = [
    1.0,
    -0.333_333_332_769_209_73,
    0.199_999_930_533_840_52,
    -0.142_853_865_471_366_75,
    0.111_034_567_933_917_9,
    -0.089_925_518_846_466_93,
    0.069_741_932_020_513_01,
    -0.037_655_028_037_090_04,
];

/// The same to the last bits of f64: the error is below 3e-17 rad before rounding.
const ATAN_F64: [f64; 11] = [
    1.0,
    -0.333_333_333_333_284_4,
    0.199_999_999_988_551_09,
    -0.142_857_141_809_763_92,
    0.111_111_061_804_528_65,
    -0.090_907_730_747_368_6,
    0.076_899_534_952_989_42,
    -0.066_402_339_216_734_51,
    0.056_883_491_809_884_175,
    -0.043_480_520_833_406_28,
    0.021_135_371_536_498_415,
];

/// The largest f32 below 360.
const BELOW_360: f32 = f32::from_bits(360f32.to_bits() - 1);

/// The angle of (x, y) from the x axis in units of which `right` make a right angle, from -2 to 2 right angles.
/// Exact at multiples of 45 degrees. Missing if either is.
#[inline(always)]
fn angle(y: f64, x: f64, right: f64, series: impl Fn(f64) -> f64) -> f64 {
    let (ax, ay) = (x.abs(), y.abs());
    let (low, high) = if ay > ax { (ax, ay) } else { (ay, ax) };
    let turned = (low > TAN_PI_8 * high) | (low == f64::INFINITY);
    // Equal ones are exact, also where both are 0 or infinite.
    let above = if low == high {
        0.0
    } else if turned {
        low - high
    } else {
        low
    };
    let below = if turned { low + high } else { high };
    let t = above / if below == 0.0 { 1.0 } else { below };
    let unit = right / std::f64::consts::FRAC_PI_2;
    let octant = t * series(t * t) * unit + if turned { right / 2.0 } else { 0.0 };
    let quadrant = if ay > ax { right - octant } else { octant };
    let half = if x.is_sign_negative() { 2.0 * right - quadrant } else { quadrant };
    let signed = half.copysign(y);
    if x.is_nan() || y.is_nan() { f64::NAN } else { signed }
}

/// atan(t)/t, good for f32, of z = t*t.
#[inline(always)]
fn series_f32(z: f64) -> f64 {
    let [c0, c1, c2, c3, c4, c5, c6, c7] = ATAN;
    // Estrin's order: shorter chains than Horner's.
    let (z2, a, b) = (z * z, c0 + c1 * z, c2 + c3 * z);
    let (c, d) = (c4 + c5 * z, c6 + c7 * z);
    (a + b * z2) + (c + d * z2) * (z2 * z2)
}

/// atan(t)/t, good for f64, of z = t*t.
#[inline(always)]
fn series_f64(z: f64) -> f64 {
    let [c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10] = ATAN_F64;
    let (z2, c, d) = (z * z, c4 + c5 * z, c6 + c7 * z);
    let (e, z4) = (c8 + c9 * z + c10 * z2, z2 * z2);
    let high = (c + d * z2) + e * z4;
    // The first terms weigh most: they are added last, the smallest first.
    c0 + z * (c1 + z * (c2 + z * (c3 + z * high)))
}

/// The angle of (x, y) in radians, as C's `atan2f`, to the nearest f32.
#[inline(always)]
pub fn atan2_f32(y: f32, x: f32) -> f32 {
    angle(f64::from(y), f64::from(x), std::f64::consts::FRAC_PI_2, series_f32) as f32
}

/// The angle of (x, y) in radians, as C's `atan2`, to a few f64 steps.
#[inline(always)]
pub fn atan2_f64(y: f64, x: f64) -> f64 {
    angle(y, x, std::f64::consts::FRAC_PI_2, series_f64)
}

/// [`wind_direction_f64`] to the nearest f32 below 360: rounding up to 360 would turn it into 0.
#[inline(always)]
pub fn wind_direction_f32(u: f32, v: f32) -> f32 {
    let direction = whole_turn(270.0 - angle(f64::from(v), f64::from(u), 90.0, series_f32)) as f32;
    if direction >= 360.0 { BELOW_360 } else { direction }
}

/// Where the wind (u to the east, v to the north) comes from, in degrees from north over east: CF's
/// `wind_from_direction`, (270 - degrees(atan2(v, u))) mod 360, in [0, 360).
#[inline(always)]
pub fn wind_direction_f64(u: f64, v: f64) -> f64 {
    whole_turn(270.0 - angle(v, u, 90.0, series_f64))
}

/// 360 and above, up to 450, to the same direction below 360.
#[inline(always)]
fn whole_turn(direction: f64) -> f64 {
    if direction >= 360.0 { direction - 360.0 } else { direction }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of all sizes and signs, from a fixed seed.
    fn numbers(count: usize, mut seed: u64) -> Vec<f32> {
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let any = |n: u64| f32::from_bits(n as u32);
        let wind = |n: u64| (n % 2_000_000) as f32 * 5e-5 - 50.0;
        (0..count)
            .map(|i| if i % 4 == 0 { any(next()) } else { wind(next()) })
            .filter(|x| !x.is_nan())
            .collect()
    }

    #[test]
    fn atan2_is_the_nearest_f32_or_its_neighbour() {
        let (ys, xs) = (numbers(2_000_000, 7), numbers(2_000_000, 11));
        let (mut worst, mut off) = (0, 0);
        for (y, x) in ys.iter().zip(&xs) {
            let made = atan2_f32(*y, *x);
            let truth = f64::from(*y).atan2(f64::from(*x)) as f32;
            let steps = (i64::from(made.to_bits()) - i64::from(truth.to_bits())).abs();
            worst = worst.max(steps);
            off += usize::from(steps > 0);
        }
        assert!(worst <= 1, "{worst} steps");
        assert!(off < 200, "{off} results are not the nearest");
    }

    #[test]
    fn atan2_has_libms_special_cases() {
        let special = [0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, 1e-40, 3e38, f32::NAN];
        for y in special {
            for x in special {
                let (made, truth) = (atan2_f32(y, x), y.atan2(x));
                let close =
                    (made - truth).abs() <= 2.5e-7 && made.is_sign_negative() == truth.is_sign_negative();
                assert!(close || made.is_nan() && truth.is_nan(), "atan2({y}, {x}) = {made}, not {truth}");
            }
        }
    }

    #[test]
    fn directions_are_those_that_the_wind_comes_from() {
        for (u, v, from) in [
            (0.0, -1.0, 0.0),
            (-1.0, -1.0, 45.0),
            (-1.0, 0.0, 90.0),
            (-1.0, 1.0, 135.0),
            (0.0, 1.0, 180.0),
            (1.0, 1.0, 225.0),
            (1.0, 0.0, 270.0),
            (1.0, -1.0, 315.0),
            (1e-9, -1.0, BELOW_360),
        ] {
            assert_eq!(wind_direction_f32(u, v), from, "u {u} v {v}");
            assert!((wind_direction_f64(f64::from(u), f64::from(v)) - f64::from(from)).abs() < 4e-5);
        }
        assert!(wind_direction_f32(f32::NAN, 1.0).is_nan());
        for (u, v) in numbers(300_000, 3).iter().zip(&numbers(300_000, 5)) {
            let made = wind_direction_f32(*u, *v);
            let (u, v) = (f64::from(*u), f64::from(*v));
            let truth = (270.0 - v.atan2(u).to_degrees()).rem_euclid(360.0);
            let (exact, angle) = (wind_direction_f64(u, v), atan2_f64(v, u));
            assert!((exact - truth).abs() < 2e-13, "u {u} v {v}: {exact}, not {truth}");
            assert!((angle - v.atan2(u)).abs() <= 9e-16, "u {u} v {v}: {angle}");
            assert!((0.0..360.0).contains(&made), "u {u} v {v}: {made}");
            assert!((f64::from(made) - truth).abs() <= 3.1e-5, "u {u} v {v}: {made}, not {truth}");
        }
    }
}
