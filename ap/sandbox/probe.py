"""The program that `Sandbox.report()` runs: every line of `found` tries to break one promise of the sandbox.

It reads the targets of its attacks (a secret file, sockets, a process) as JSON from its standard input, and prints
{promise: whether the attack failed}. It stands for a model's program, so it imports nothing of ours.
"""
PROBE = """
import ctypes, json, os, socket, threading
def works(action):
    try:
        action()
        return True
    except BaseException:
        return False
def send(family, kind, address):
    with socket.socket(family, kind) as end:
        end.connect(address)
        end.send(b'x')
def datagram_of_a_pair(address):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a.sendto(b'x', address)
def start_threads():
    threading.stack_size(32768)
    end = threading.Event()
    try:
        for _ in range(500):
            threading.Thread(target=end.wait).start()
    finally:
        end.set()
def fork():
    if os.fork() == 0:
        os._exit(0)
def fill():
    for name in range(80):
        with open(f'fill{name}', 'wb') as file:
            os.posix_fallocate(file.fileno(), 0, 1 << 20)
def litter():
    for name in range(2100):
        os.mkdir(f'folder{name}')
ask = json.loads(input())
libc = ctypes.CDLL(None, use_errno=True)
initial = open('/proc/self/environ').read() if works(lambda: open('/proc/self/environ')) else ''
found = {
    'empty_environment': not os.environ and initial in ('', 'PYTHONHASHSEED=0\\0'),
    'no_foreign_files': not works(lambda: open(ask['secret'])),
    'no_foreign_names': not os.path.exists(ask['secret']) and not os.path.exists('/etc'),
    'no_foreign_changes': not any(works(lambda: (open(p + '/.probe', 'w'), os.unlink(p + '/.probe')))
                                  for p in ask['paths'] + [os.path.dirname(os.__file__)])
                          and not works(lambda: os.utime(ask['secret'])),
    'no_tcp': not works(lambda: send(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', ask['tcp']))),
    'no_udp': not works(lambda: send(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', ask['udp']))),
    'no_unix_sockets': not any(works(lambda: send(socket.AF_UNIX, socket.SOCK_DGRAM, address))
                               or works(lambda: datagram_of_a_pair(address))
                               for address in (ask['unix'], ask['abstract'])),
    'no_foreign_signals': not any(works(lambda: os.kill(pid, 0)) for pid in (ask['pid'], os.getppid() or 1)),
    'no_foreign_processes': not works(lambda: os.getpgid(ask['pid'])) and not os.path.exists(f"/proc/{ask['pid']}"),
    'no_new_privileges': libc.prctl(39, 0, 0, 0, 0) == 1,
    'no_capabilities': not works(lambda: os.chroot('/')) and not works(lambda: socket.sethostname('x')),
    'no_user_namespaces': libc.unshare(0x10000000) != 0,
    'no_foreign_descriptors': not any(works(lambda: os.fstat(fd)) for fd in range(3, 4096)),
    'calls_filtered': not works(lambda: os.memfd_create('x')) and libc.ptrace(0, 0, 0, 0) != 0,
    'one_process': not works(fork),
    'thread_limit': not works(start_threads),
    'memory_limit': not works(lambda: bytearray((ask['memory_mb'] << 20) + (1 << 26))),
    'file_limit': not works(lambda: os.ftruncate(os.open('big', os.O_CREAT | os.O_RDWR), 1 << 30)),
    'file_number_limit': not works(litter),
    'disk_limit': not works(fill),
}
print(json.dumps(found))
"""
