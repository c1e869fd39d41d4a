// SPDX-License-Identifier: GPL-2.0

//! A GLES context without a window system, and framebuffers in it.

use glow::Context;
use glow::HasContext;
use khronos_egl as egl;

const PLATFORM_SURFACELESS_MESA: egl::Enum = 0x31dd;
const OPENGL_ES3_BIT: egl::Int = 0x40;

type Egl = egl::DynamicInstance<egl::EGL1_5>;

/// A current context. Gone, with all that was made in it, when it is dropped.
pub struct Gles {
    /// The functions.
    pub gl: Context,
    egl: Egl,
    display: egl::Display,
    context: egl::Context,
}

impl Gles {
    /// Makes a GLES 3 context on the surfaceless platform and makes it current.
    pub fn new() -> Result<Self, String> {
        // SAFETY: the system's EGL is what it says it is.
        let egl = unsafe { Egl::load_required() }.map_err(|e| format!("libEGL: {e}"))?;
        let what = |what: &'static str| move |error: egl::Error| format!("{what}: {error}");
        // SAFETY: this platform takes no native display.
        let display = unsafe {
            egl.get_platform_display(
                PLATFORM_SURFACELESS_MESA,
                egl::DEFAULT_DISPLAY,
                &[egl::ATTRIB_NONE],
            )
        }
        .map_err(what("the surfaceless platform"))?;
        egl.initialize(display)
            .map_err(what("initialising the display"))?;
        egl.bind_api(egl::OPENGL_ES_API)
            .map_err(what("choosing GLES"))?;
        let attributes = [
            egl::SURFACE_TYPE,
            0,
            egl::RENDERABLE_TYPE,
            OPENGL_ES3_BIT,
            egl::NONE,
        ];
        let config = egl
            .choose_first_config(display, &attributes)
            .map_err(what("choosing a configuration"))?
            .ok_or("no configuration for GLES 3")?;
        let attributes = [egl::CONTEXT_MAJOR_VERSION, 3, egl::NONE];
        let context = egl
            .create_context(display, config, None, &attributes)
            .map_err(what("making a context"))?;
        egl.make_current(display, None, None, Some(context))
            .map_err(what("making the context current"))?;
        // SAFETY: the loader returns functions of the current context's API.
        let gl = unsafe {
            Context::from_loader_function(|name| {
                egl.get_proc_address(name)
                    .map_or(std::ptr::null(), |function| function as *const _)
            })
        };
        // SAFETY: the context is current.
        unsafe {
            gl.disable(glow::DITHER);
            gl.pixel_store_i32(glow::PACK_ALIGNMENT, 1);
        }
        Ok(Self {
            gl,
            egl,
            display,
            context,
        })
    }
}

impl Drop for Gles {
    fn drop(&mut self) {
        let _ = self.egl.make_current(self.display, None, None, None);
        let _ = self.egl.destroy_context(self.display, self.context);
        let _ = self.egl.terminate(self.display);
    }
}

/// The object that holds the pixels of an attachment.
#[derive(Clone, Copy)]
enum Storage {
    Renderbuffer(glow::Renderbuffer),
    Texture(glow::Texture),
}

/// A bound framebuffer, complete. Deleted on drop.
pub struct Framebuffer<'a> {
    gl: &'a Context,
    framebuffer: glow::Framebuffer,
    storage: Vec<Storage>,
    width: i32,
    height: i32,
}

impl<'a> Framebuffer<'a> {
    /// Makes one with these attachments: (point, internal format). Textures are used if asked for,
    /// else renderbuffers.
    pub fn new(
        gl: &'a Context,
        (width, height): (i32, i32),
        attachments: &[(u32, u32)],
        textures: bool,
    ) -> Result<Self, String> {
        // SAFETY: the context is current.
        unsafe {
            let mut this = Self {
                gl,
                framebuffer: gl.create_framebuffer()?,
                storage: Vec::new(),
                width,
                height,
            };
            gl.bind_framebuffer(glow::FRAMEBUFFER, Some(this.framebuffer));
            for &(point, format) in attachments {
                if textures {
                    let texture = gl.create_texture()?;
                    this.storage.push(Storage::Texture(texture));
                    gl.bind_texture(glow::TEXTURE_2D, Some(texture));
                    gl.tex_storage_2d(glow::TEXTURE_2D, 1, format, width, height);
                    gl.framebuffer_texture_2d(
                        glow::FRAMEBUFFER,
                        point,
                        glow::TEXTURE_2D,
                        Some(texture),
                        0,
                    );
                } else {
                    let buffer = gl.create_renderbuffer()?;
                    this.storage.push(Storage::Renderbuffer(buffer));
                    gl.bind_renderbuffer(glow::RENDERBUFFER, Some(buffer));
                    gl.renderbuffer_storage(glow::RENDERBUFFER, format, width, height);
                    gl.framebuffer_renderbuffer(
                        glow::FRAMEBUFFER,
                        point,
                        glow::RENDERBUFFER,
                        Some(buffer),
                    );
                }
            }
            let status = gl.check_framebuffer_status(glow::FRAMEBUFFER);
            if status != glow::FRAMEBUFFER_COMPLETE {
                return Err(format!("the framebuffer is not complete: {status:#x}"));
            }
            gl.viewport(0, 0, width, height);
            Ok(this)
        }
    }

    /// Reads all of it: `size` bytes per pixel of this format and type.
    pub fn read(&self, format: u32, kind: u32, size: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; self.width as usize * self.height as usize * size];
        // SAFETY: the context is current and the buffer as large as the pixels are.
        let error = unsafe {
            self.gl.read_pixels(
                0,
                0,
                self.width,
                self.height,
                format,
                kind,
                glow::PixelPackData::Slice(Some(&mut bytes)),
            );
            self.gl.get_error()
        };
        if error != glow::NO_ERROR {
            return Err(format!("reading back: error {error:#x}"));
        }
        Ok(bytes)
    }
}

impl Drop for Framebuffer<'_> {
    fn drop(&mut self) {
        // SAFETY: the context is current, and these are its objects.
        unsafe {
            self.gl.delete_framebuffer(self.framebuffer);
            for storage in &self.storage {
                match *storage {
                    Storage::Renderbuffer(buffer) => self.gl.delete_renderbuffer(buffer),
                    Storage::Texture(texture) => self.gl.delete_texture(texture),
                }
            }
        }
    }
}
