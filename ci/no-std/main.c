/* Runs the program without the standard library: exit code 0 if the device got its notification. */

unsigned mpp_no_std_run(void);

/* The prebuilt liballoc refers to it for unwinding, of which there is none here. */
void rust_eh_personality(void) {}

int main(void) { return mpp_no_std_run() == 1 ? 0 : 1; }
