//! What every plugin has, whatever it provides: a name, a start, a stop, a reload.

/// The life of a plugin. All of it is called from the node's own thread, never the packet path.
pub trait Plugin: Send + Sync + 'static {
    /// The name by which the configuration chooses it, for logs and metrics.
    fn name(&self) -> &str;

    /// Called once before the first question. An error stops the start of the node.
    fn start(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Reads again what it was configured from. After an error the plugin goes on with what it
    /// had.
    fn reload(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Called once at the node's stop. Questions after it may be refused.
    fn stop(&self) {}
}
