/* A server with a leak, like server.py beside it: server unread|eof_unread|eof_ignored|close */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX = 64 };
static int connections[MAX];
static struct pollfd watched[2 + MAX];
static int n_connections;
static char buffer[1 << 16];

static void serve(struct pollfd *entry, const char *mode)
{
    ssize_t n = recv(entry->fd, buffer, sizeof buffer, 0);
    int fd = entry->fd;
    if (n <= 0 || strcmp(mode, "eof_unread") == 0)
        entry->fd = -1;
    if (n <= 0 && strcmp(mode, "close") == 0)
        close(fd);
}

static void read_all(void)
{
    ssize_t n;
    for (int i = 0; i < n_connections; i++)
        while ((n = recv(connections[i], buffer, sizeof buffer, MSG_DONTWAIT)) > 0)
            for (ssize_t k = 0; k < n; k++)
                printf("%02x", (unsigned char)buffer[k]);
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (argc != 2 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 64))
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    watched[0] = (struct pollfd){.fd = 0, .events = POLLIN};
    watched[1] = (struct pollfd){.fd = listener, .events = POLLIN};
    while (poll(watched, 2 + n_connections, -1) >= 0) {
        if (watched[0].revents) {
            if (read(0, buffer, sizeof buffer) <= 0)
                return 0;
            read_all();
        }
        for (int i = 2; i < 2 + n_connections; i++)
            if (watched[i].fd >= 0 && watched[i].revents)
                serve(&watched[i], argv[1]);
        if (watched[1].revents && n_connections < MAX) {
            int fd = accept(listener, NULL, NULL);
            connections[n_connections++] = fd;
            int stays_unread = strcmp(argv[1], "unread") == 0;
            watched[1 + n_connections] = (struct pollfd){.fd = stays_unread ? -1 : fd, .events = POLLIN};
        }
    }
    return 1;
}
