//! A library that leaves a mark wherever it is loaded: `/srv/loaded`, for whoever sees that place.

#![no_std]

#[link(name = "c")]
unsafe extern "C" {
    fn creat(path: *const core::ffi::c_char, mode: u32) -> i32;
}

/// Run by the loader before anything of the program.
#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = mark;

extern "C" fn mark() {
    // SAFETY: a string that ends with NUL.
    unsafe { creat(c"/srv/loaded".as_ptr(), 0o644) };
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
